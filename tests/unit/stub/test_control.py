"""Answers to control requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ernie_stub.control import INSTANCE, answer_control
from ernie_stub.in_flight import InFlight
from ernie_wire.messages import GenerateRequest
from ernie_wire.status import Control, Health, answer_text


def told(
    op: str, health: Health, in_flight: InFlight | None = None, request_id: str | None = None
) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        answer_text(answer_control(Control(op, request_id), health, None, in_flight or InFlight()))
    )
    return answer


def test_health_follows_the_heartbeat() -> None:
    health = Health(1, 2, 3, 9, 5, 6, 8, 7, state="ready", generation=2, heartbeat_age_s=0.5, alive_age_s=0.2)
    assert told("health", health) == {
        "state": "ready",
        "detail": "",
        "ready": True,
        "alive_age_s": 0.2,
        "heartbeat_age_s": 0.5,
        "running": 1,
        "waiting": 2,
        "free_blocks": 3,
        "total_blocks": 9,
        "steps": 5,
        "preemptions": 6,
        "prefix_cache_queries": 8,
        "prefix_cache_hits": 7,
        "generation": 2,
        "instance": INSTANCE,
    }


def test_an_engine_is_ready_until_its_heartbeat_is_30_s_old() -> None:
    health = Health(state="ready", heartbeat_age_s=29.9, alive_age_s=0.2)
    assert told("health", health)["ready"]


def test_an_engine_without_heartbeat_is_not_ready() -> None:
    health = told("health", Health(state="ready", heartbeat_age_s=31.0, alive_age_s=0.2))
    assert not health["ready"]
    assert "31 s" in health["detail"]


@pytest.mark.parametrize(("alive_age_s", "is_ready"), [(2.9, True), (3.1, False)])
def test_a_process_that_gives_no_sign_of_life_is_not_ready_however_young_its_heartbeat(
    alive_age_s: float, is_ready: bool
) -> None:
    health = told("health", Health(state="ready", heartbeat_age_s=0.5, alive_age_s=alive_age_s))
    assert health["ready"] == is_ready
    assert health["detail"] == ("" if is_ready else "the engine process has given no sign of life for 3 s")


def test_an_entry_without_weights() -> None:
    health = Health(state="unconfigured", detail="no weights")
    assert told("describe", health) == {
        "state": "unconfigured",
        "detail": "no weights",
        "generation": 0,
        "instance": INSTANCE,
        "engine": None,
        "outputs_socket": "",
    }
    assert not told("health", health)["ready"]


def test_health_tells_whether_a_request_is_in_flight() -> None:
    class Unasked:
        request_id = "mine"

    in_flight = InFlight()
    in_flight.submit(GenerateRequest("mine", text_input="Hi"), Unasked())  # type: ignore[arg-type]
    for request_id, expected in (("mine", True), ("other", False)):
        health = told("health", Health(state="starting"), in_flight, request_id)
        assert health["in_flight"] is expected
