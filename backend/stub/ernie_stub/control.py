"""The answers to ``control`` requests: at once, from what the stub knows, without asking the engine.

This module must not know how an answer travels.
"""

from __future__ import annotations

import uuid
from typing import Any

from ernie_stub.engine import EngineStatus
from ernie_stub.in_flight import InFlight

INSTANCE = uuid.uuid4().hex
"""Names this start of the stub: a client that sees another one knows that its requests in flight are lost."""
STOPPED_S = 3.0
"""After this long without a sign of life the engine process is dead or stopped: it gives two a second, from a
thread that waits for no step."""
LOOP_HANGS_S = 30.0  # heartbeats come several times a second between steps; no step should last so long


def answer_control(control: dict[str, Any], status: EngineStatus, in_flight: InFlight) -> dict[str, Any]:
    """Return the answer to a decoded control (``ernie_wire.messages.parse_control``)."""
    if control["op"] == "cancel":
        return {"cancelled": in_flight.cancel(control["request_id"])}
    if control["op"] == "describe":
        return _describe(status)
    health = _health(status)
    if "request_id" in control:
        health["in_flight"] = in_flight.holds(control["request_id"])
    return health


def _describe(status: EngineStatus) -> dict[str, Any]:
    return {
        "state": status.state,
        "detail": status.detail,
        "generation": status.generation,
        "instance": INSTANCE,
        "engine": status.description,
    }


def _health(status: EngineStatus) -> dict[str, Any]:
    """Ready means that the engine lives and its loop turns: told by its messages, never by a generation."""
    fault = _fault(status)
    heartbeat = status.heartbeat
    total_blocks = (status.description or {}).get("kv_blocks", 0)
    return {
        "state": status.state,
        "detail": fault or status.detail,
        "ready": status.state == "ready" and not fault,
        "alive_age_s": status.alive_age_s,
        "heartbeat_age_s": status.heartbeat_age_s,
        "running": heartbeat.running if heartbeat else 0,
        "waiting": heartbeat.waiting if heartbeat else 0,
        "free_blocks": heartbeat.free_blocks if heartbeat else total_blocks,
        "total_blocks": heartbeat.total_blocks if heartbeat else total_blocks,
        "steps": heartbeat.steps if heartbeat else 0,
        "preemptions": heartbeat.preemptions if heartbeat else 0,
        "prefix_cache_queries": heartbeat.prefix_cache_queries if heartbeat else 0,
        "prefix_cache_hits": heartbeat.prefix_cache_hits if heartbeat else 0,
        "generation": status.generation,
        "instance": INSTANCE,
    }


def _fault(status: EngineStatus) -> str:
    """Return what is wrong with an engine that should be ready; empty if nothing is known."""
    if status.alive_age_s is not None and status.alive_age_s > STOPPED_S:
        return f"the engine process has given no sign of life for {status.alive_age_s:.0f} s"
    if status.heartbeat_age_s is not None and status.heartbeat_age_s > LOOP_HANGS_S:
        return f"the engine has sent no heartbeat for {status.heartbeat_age_s:.0f} s"
    return ""
