"""The outermost ASGI middleware: each request gets an id, a log line, metrics, and 500 for unexpected errors.

The line holds the id, the path, the status, an error's code, token counts and the time; never a prompt or an
answer. Successful probes, which come every few seconds, are logged at level DEBUG.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Set
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ernie_frontend.http_errors import error_code, error_response
from ernie_frontend.metrics import Metrics
from ernie_frontend.schema.openapi import GENERATIONS
from ernie_wire.errors import InternalError, ModelUnavailable, RequestCancelled

logger = logging.getLogger(__name__)

_CLIENT_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9._:\-]")
_MAX_USER_CHARACTERS = 64
_UNCOUNTED_PATHS = frozenset(("/health", "/ping", "/metrics"))
_METHODS = frozenset(("GET", "POST", "HEAD", "OPTIONS"))
_RECORD = "ernie_frontend.record"


@dataclass
class RequestRecord:
    """The state of one HTTP request.

    Attributes:
        request_id: the client's ``X-Request-Id`` if it is well-formed, else ``unique``.
        unique: 32 random hexadecimal digits.
        status: HTTP status sent, 0 until then.
        num_input_tokens, num_output_tokens: tokens of the prompts and of the answers.
        is_disconnected: the client disconnected before the answer was complete.
        failed_status: status of the error that ended an answer after it had begun, else 0.
        failed_code: its code.
        first_token_s: from the start to the first token of a stream; None otherwise.
    """

    request_id: str
    unique: str
    status: int = 0
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    num_accepted_drafts: int = 0
    num_rejected_drafts: int = 0
    is_disconnected: bool = False
    failed_status: int = 0
    failed_code: str = ""
    first_token_s: float | None = None
    started_s: float = field(default_factory=time.perf_counter)

    @property
    def age_s(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self.started_s

    @property
    def outcome(self) -> int:
        """The final status: of a stream that began with 200 and failed, the error's."""
        if self.is_disconnected:
            return RequestCancelled.status
        return self.failed_status or self.status

    def count(self, num_input_tokens: int, num_output_tokens: int, drafts: tuple[int, int] = (0, 0)) -> None:
        """Record the tokens of the request; ``drafts``: how many were guessed rightly and wrongly."""
        self.num_input_tokens = num_input_tokens
        self.num_output_tokens = num_output_tokens
        self.num_accepted_drafts, self.num_rejected_drafts = drafts

    def wire_id(self, prefix: str, user: str | None = None) -> str:
        """Return a unique id for Triton and the answer, which contains ``user`` and the client's own id."""
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
    """Opens a ``RequestRecord`` for each request, echoes its id, and writes one line when it ends.

    Args:
        app: the application.
        metrics: counts the requests.
        paths: known paths; the metrics have no other labels.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Set[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; answer 500 without details to an unexpected exception."""
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
        except asyncio.CancelledError:
            record.failed_status = ModelUnavailable.status  # the process ends before the answer does
            raise
        except Exception:
            logger.exception("request %s failed", record.request_id)
            if record.status == 0:
                fault = InternalError(f"an unexpected error in the server; request id {record.request_id}")
                await error_response(fault)(scope, receive, recording_send)
        finally:
            _write_line(scope, record)
            self._count(scope, record)

    def _count(self, scope: Scope, record: RequestRecord) -> None:
        path: str = scope["path"]
        if path in _UNCOUNTED_PATHS:
            return
        if path in GENERATIONS and scope["method"] == "POST":
            self._metrics.count_generation(
                is_success=record.outcome == 200,
                num_input_tokens=record.num_input_tokens,
                num_output_tokens=record.num_output_tokens,
                num_accepted_drafts=record.num_accepted_drafts,
                num_rejected_drafts=record.num_rejected_drafts,
                duration_s=record.age_s,
                first_token_s=record.first_token_s,
            )
        # Arbitrary paths and methods of clients must not create series.
        known = path if path in self._paths else "/v1/models/*" if path.startswith("/v1/models/") else "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.count_http(method, known, record.outcome, record.age_s)


def _open_record(headers: Headers) -> RequestRecord:
    unique = uuid.uuid4().hex
    client_id = headers.get("x-request-id", "")
    return RequestRecord(client_id if _CLIENT_ID.fullmatch(client_id) else unique, unique)


def _server_timing(content_type: str, record: RequestRecord) -> str:
    """Return the time to the first byte of the answer; an event stream begins with its first token."""
    if content_type.startswith("text/event-stream"):
        record.first_token_s = record.age_s
        return f"ttft;dur={record.first_token_s * 1e3:.1f}"
    return f"total;dur={record.age_s * 1e3:.1f}"


def _write_line(scope: Scope, record: RequestRecord) -> None:
    is_probe = scope["path"] in _UNCOUNTED_PATHS and record.status == 200
    logger.log(
        logging.DEBUG if is_probe else logging.INFO,
        "%s %s %s status=%d%s%s input_tokens=%d output_tokens=%d ms=%.1f",
        record.request_id,
        scope["method"],
        scope["raw_path"].decode("latin-1"),  # still percent-encoded, so it cannot forge a log line
        record.status,
        _failure(record),
        f" code={code}" if (code := record.failed_code or error_code(scope)) else "",
        record.num_input_tokens,
        record.num_output_tokens,
        record.age_s * 1e3,
    )


def _failure(record: RequestRecord) -> str:
    """Return how an answer failed after its status was sent."""
    if record.is_disconnected:
        return " disconnected"
    return f" failed={record.failed_status}" if record.failed_status else ""
