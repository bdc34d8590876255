"""The outermost ASGI middleware: gives each request its id, one log line, and a 500 if all else fails.

The line holds the id, the path, the status, token counts and the time; never a prompt or an answer.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ernie_frontend.errors import error_response
from ernie_wire.errors import InternalError

logger = logging.getLogger(__name__)

_CLIENT_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9._:\-]")
_MAX_USER_CHARACTERS = 64
_RECORD = "ernie_frontend.record"


@dataclass
class RequestRecord:
    """What is known of one HTTP request while it is worked on.

    Attributes:
        request_id: the client's ``X-Request-Id`` if it is well-formed, else ``unique``.
        unique: 32 hexadecimal digits of our own, whatever the client sent.
        status: HTTP status sent, 0 until then.
        num_input_tokens, num_output_tokens: tokens of the prompts and of the answers.
        is_disconnected: the client went away before the answer was complete.
    """

    request_id: str
    unique: str
    status: int = 0
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    is_disconnected: bool = False
    started_s: float = field(default_factory=time.perf_counter)

    def count(self, num_input_tokens: int, num_output_tokens: int) -> None:
        """Note the tokens of the answer."""
        self.num_input_tokens = num_input_tokens
        self.num_output_tokens = num_output_tokens

    def wire_id(self, prefix: str, user: str | None = None) -> str:
        """Return an id for the wire: unique, and the client's own id and ``user`` can be found in it."""
        parts = [prefix, self.unique]
        if user:
            parts.insert(1, _NOT_IN_ID.sub("_", user)[:_MAX_USER_CHARACTERS])
        if self.request_id != self.unique:
            parts.append(self.request_id)
        return "-".join(parts)


def record_of(scope: Scope) -> RequestRecord:
    """Return the record of the request that a scope belongs to."""
    record: RequestRecord = scope[_RECORD]
    return record


class RequestLog:
    """Opens a ``RequestRecord`` for each request, echoes its id, and writes one line when it ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; answer 500 without details if something unforeseen is raised."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = scope[_RECORD] = _open_record(Headers(scope=scope))

        async def recording_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = record.request_id
                headers["Server-Timing"] = _server_timing(headers.get("content-type", ""), record)
            await send(message)

        try:
            await self._app(scope, receive, recording_send)
        except Exception:
            logger.exception("request %s failed", record.request_id)
            if record.status == 0:
                fault = InternalError(f"something went wrong on our side; request id {record.request_id}")
                await error_response(fault)(scope, receive, recording_send)
        finally:
            _write_line(scope, record)


def _open_record(headers: Headers) -> RequestRecord:
    unique = uuid.uuid4().hex
    given = headers.get("x-request-id", "")
    return RequestRecord(given if _CLIENT_ID.fullmatch(given) else unique, unique)


def _server_timing(content_type: str, record: RequestRecord) -> str:
    """Return the time to the answer's first byte: an event stream begins with its first token."""
    name = "ttft" if content_type.startswith("text/event-stream") else "total"
    return f"{name};dur={(time.perf_counter() - record.started_s) * 1e3:.1f}"


def _write_line(scope: Scope, record: RequestRecord) -> None:
    logger.info(
        "%s %s %s status=%d%s input_tokens=%d output_tokens=%d ms=%.1f",
        record.request_id,
        scope["method"],
        scope["raw_path"].decode("latin-1"),  # as sent: still escaped, so it cannot forge a line
        record.status,
        " disconnected" if record.is_disconnected else "",
        record.num_input_tokens,
        record.num_output_tokens,
        (time.perf_counter() - record.started_s) * 1e3,
    )
