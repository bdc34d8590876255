"""The answers to ``control`` requests: at once, from what the stub knows, without asking the engine.

This module must not know how an answer travels.
"""

from __future__ import annotations

import uuid
from dataclasses import replace

from ernie_stub.in_flight import InFlight
from ernie_wire.status import Cancelled, Control, Description, Health, Status

INSTANCE = uuid.uuid4().hex
"""Names this start of the stub: a client that sees another one knows that its requests in flight are lost."""
STOPPED_S = 3.0
"""After this long without a sign of life the engine process is dead or stopped: it gives two a second, from a
thread that waits for no step."""
LOOP_HANGS_S = 30.0  # heartbeats come several times a second between steps; no step should last so long


def answer_control(
    control: Control, health: Health, engine: Description | None, in_flight: InFlight
) -> Health | Status | Cancelled:
    """Return the answer to a question.

    Args:
        control: the question.
        health: what the engine's messages tell of it.
        engine: what it says of itself, if it is ready.
        in_flight: the requests.
    """
    request_id = control.request_id
    if control.op == "cancel":
        return Cancelled(in_flight.cancel(request_id or ""))
    if control.op == "describe":
        return Status(health.state, health.detail, health.generation, INSTANCE, engine)
    fault = _fault(health)
    return replace(
        health,
        detail=fault or health.detail,
        ready=health.state == "ready" and not fault,
        instance=INSTANCE,
        in_flight=None if request_id is None else in_flight.holds(request_id),
    )


def _fault(health: Health) -> str:
    """Return what is wrong with an engine that should be ready; empty if nothing is known.

    It must live and its loop turn: told by its messages, never by a generation.
    """
    if health.alive_age_s is not None and health.alive_age_s > STOPPED_S:
        return f"the engine process has given no sign of life for {health.alive_age_s:.0f} s"
    if health.heartbeat_age_s is not None and health.heartbeat_age_s > LOOP_HANGS_S:
        return f"the engine has sent no heartbeat for {health.heartbeat_age_s:.0f} s"
    return ""
