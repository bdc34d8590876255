"""The answers to ``control`` requests, from the stub's own state, so that they never wait for the engine."""

from __future__ import annotations

import uuid
from dataclasses import replace

from ernie_stub.in_flight import InFlight
from ernie_wire.status import Cancelled, Control, Description, Health, Status

INSTANCE = uuid.uuid4().hex
"""Identifies this start of the stub: a client that sees another one knows that its requests are lost."""
STOPPED_S = 3.0
"""After this long without a sign of life the engine process is dead or stopped: a thread that is independent of
the steps sends two a second."""
LOOP_HANGS_S = 30.0  # heartbeats come several times a second, between steps, and no step should take this long


def answer_control(
    control: Control,
    health: Health,
    engine: Description | None,
    in_flight: InFlight,
    outputs_socket: str = "",
) -> Health | Status | Cancelled:
    """Return the answer to a control request.

    Args:
        control: the request.
        health: of the engine, by its messages.
        engine: its description, if it is ready.
        in_flight: the requests in flight.
        outputs_socket: as in ``Status``.
    """
    request_id = control.request_id
    if control.op == "cancel":
        return Cancelled(in_flight.cancel(request_id or ""))
    if control.op == "describe":
        return Status(health.state, health.detail, health.generation, INSTANCE, engine, outputs_socket)
    fault = _fault(health)
    return replace(
        health,
        detail=fault or health.detail,
        ready=health.state == "ready" and not fault,
        instance=INSTANCE,
        in_flight=None if request_id is None else in_flight.holds(request_id),
    )


def _fault(health: Health) -> str:
    """Return why an engine is unhealthy, by the age of its messages; empty if it is healthy or not ready."""
    if health.alive_age_s is not None and health.alive_age_s > STOPPED_S:
        return f"the engine process has given no sign of life for {health.alive_age_s:.0f} s"
    if health.heartbeat_age_s is not None and health.heartbeat_age_s > LOOP_HANGS_S:
        return f"the engine has sent no heartbeat for {health.heartbeat_age_s:.0f} s"
    return ""
