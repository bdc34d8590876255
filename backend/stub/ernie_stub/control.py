"""The answers to ``control`` requests: at once, from what the stub knows, without asking the engine.

This module must not know how an answer travels.
"""

from __future__ import annotations

import uuid

from ernie_stub.engine import EngineStatus
from ernie_stub.in_flight import InFlight
from ernie_wire.status import Cancelled, Control, Health, Stats, Status

INSTANCE = uuid.uuid4().hex
"""Names this start of the stub: a client that sees another one knows that its requests in flight are lost."""
STOPPED_S = 3.0
"""After this long without a sign of life the engine process is dead or stopped: it gives two a second, from a
thread that waits for no step."""
LOOP_HANGS_S = 30.0  # heartbeats come several times a second between steps; no step should last so long


def answer_control(control: Control, status: EngineStatus, in_flight: InFlight) -> Health | Status | Cancelled:
    """Return the answer to a question."""
    if control.op == "cancel":
        return Cancelled(in_flight.cancel(control.request_id or ""))
    if control.op == "describe":
        return Status(status.state, status.detail, status.generation, INSTANCE, status.description)
    return _health(status, None if control.request_id is None else in_flight.holds(control.request_id))


def _health(status: EngineStatus, in_flight: bool | None) -> Health:
    """Ready means that the engine lives and its loop turns: told by its messages, never by a generation."""
    fault = _fault(status)
    num_blocks = status.description.kv_blocks if status.description else 0
    stats = status.stats or Stats(free_blocks=num_blocks, total_blocks=num_blocks)
    return Health(
        **vars(stats),
        state=status.state,
        detail=fault or status.detail,
        ready=status.state == "ready" and not fault,
        alive_age_s=status.alive_age_s,
        heartbeat_age_s=status.heartbeat_age_s,
        generation=status.generation,
        instance=INSTANCE,
        in_flight=in_flight,
    )


def _fault(status: EngineStatus) -> str:
    """Return what is wrong with an engine that should be ready; empty if nothing is known."""
    if status.alive_age_s is not None and status.alive_age_s > STOPPED_S:
        return f"the engine process has given no sign of life for {status.alive_age_s:.0f} s"
    if status.heartbeat_age_s is not None and status.heartbeat_age_s > LOOP_HANGS_S:
        return f"the engine has sent no heartbeat for {status.heartbeat_age_s:.0f} s"
    return ""
