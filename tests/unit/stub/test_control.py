"""Answers to control requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ernie_stub.control import INSTANCE, answer_control
from ernie_stub.engine import EngineStatus
from ernie_stub.in_flight import InFlight
from ernie_wire.messages import GenerateRequest, Heartbeat
from ernie_wire.status import Control, answer_text
from fakes.descriptions import description


def told(
    op: str, status: EngineStatus, in_flight: InFlight | None = None, request_id: str | None = None
) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        answer_text(answer_control(Control(op, request_id), status, in_flight or InFlight()))
    )
    return answer


def test_health_follows_the_heartbeat() -> None:
    status = EngineStatus("ready", "", 2, description(kv_blocks=9), Heartbeat(1, 2, 3, 9, 5, 6, 8, 7), 0.5, 0.2)
    assert told("health", status) == {
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
    status = EngineStatus("ready", "", 1, description(), None, 29.9, 0.2)
    assert told("health", status)["ready"]


def test_an_engine_without_heartbeat_is_not_ready() -> None:
    status = EngineStatus("ready", "", 1, description(kv_blocks=9), None, 31.0, 0.2)
    health = told("health", status)
    assert not health["ready"]
    assert health["detail"] == "the engine has sent no heartbeat for 31 s"
    assert (health["free_blocks"], health["total_blocks"]) == (9, 9)


@pytest.mark.parametrize(("alive_age_s", "is_ready"), [(2.9, True), (3.1, False)])
def test_a_process_that_gives_no_sign_of_life_is_not_ready_however_young_its_heartbeat(
    alive_age_s: float, is_ready: bool
) -> None:
    status = EngineStatus("ready", "", 1, description(), None, 0.5, alive_age_s)
    health = told("health", status)
    assert health["ready"] == is_ready
    assert health["detail"] == ("" if is_ready else "the engine process has given no sign of life for 3 s")


def test_an_entry_without_weights() -> None:
    status = EngineStatus("unconfigured", "no weights")
    describe = told("describe", status)
    assert describe == {
        "state": "unconfigured",
        "detail": "no weights",
        "generation": 0,
        "instance": INSTANCE,
        "engine": None,
    }
    assert not told("health", status)["ready"]


def test_health_tells_whether_a_request_is_in_flight() -> None:
    class Unasked:
        request_id = "mine"

    in_flight = InFlight()
    in_flight.submit(GenerateRequest("mine", text_input="Hi"), Unasked())  # type: ignore[arg-type]
    status = EngineStatus("starting")
    for request_id, expected in (("mine", True), ("other", False)):
        health = told("health", status, in_flight, request_id)
        assert health["in_flight"] is expected
