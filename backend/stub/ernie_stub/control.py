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
UNRESPONSIVE_S = 30.0  # heartbeats come several times a second between steps; no step should last so long


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
    """Ready means that the engine's loop turns: told by its heartbeat, never by a generation."""
    age_s = status.heartbeat_age_s
    is_silent = age_s is not None and age_s > UNRESPONSIVE_S
    heartbeat = status.heartbeat
    total_blocks = (status.description or {}).get("kv_blocks", 0)
    return {
        "state": status.state,
        "detail": f"the engine has sent no heartbeat for {age_s:.0f} s" if is_silent else status.detail,
        "ready": status.state == "ready" and not is_silent,
        "heartbeat_age_s": age_s,
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
