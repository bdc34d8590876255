"""Every error as the OpenAI envelope ``{"error": {message, type, param, code}}`` with its HTTP status.

The tree is in ``ernie_wire.errors``; here are the leaves that only HTTP has, and the translation of what
pydantic and Starlette raise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ernie_wire.errors import ErnieError, InvalidRequest, InvalidValue, MissingParameter, QueueFull

# The field of the HTTP request that became a tensor of the wire.
_FIELDS = {"text_input": "prompt", "input_ids": "prompt", "media": "messages"}
_RETRY_AFTER_S = {408: "1", 503: "5"}
_CODE = "ernie_frontend.error_code"


class BodyTooLarge(InvalidRequest):
    """The request body is larger than the server accepts."""

    code = "request_too_large"
    status = 413


class BodyTooSlow(InvalidRequest):
    """The request body stalled until its time limit; the connection is closed."""

    code = "request_too_slow"
    status = 408


class UnsupportedEncoding(InvalidRequest):
    """The request body has a content encoding that is not supported."""

    code = "unsupported_content_encoding"
    status = 415


class MediaNotAllowed(InvalidRequest):
    """The server may not fetch an image or video from where a URL points."""

    code = "media_not_allowed"


class MediaUnavailable(InvalidRequest):
    """An image or video could not be fetched: its server did not answer, or not with the file."""

    code = "media_unavailable"


class Unauthorized(InvalidRequest):
    """The API key is missing or wrong."""

    code = "invalid_api_key"
    status = 401


class UnknownRoute(InvalidRequest):
    """There is nothing at this path."""

    code = "unknown_url"
    status = 404


class WrongMethod(InvalidRequest):
    """The path exists, but not for this method."""

    code = "method_not_allowed"
    status = 405


def envelope(error: ErnieError) -> dict[str, Any]:
    """Return the OpenAI error object of an error."""
    return {
        "error": {
            "message": error.message,
            "type": error.openai_type,
            "param": _FIELDS.get(error.param or "", error.param),
            "code": error.code,
        }
    }


class _ErrorResponse(JSONResponse):
    """The response of an error, which leaves the code in the scope for the log."""

    def __init__(self, error: ErnieError, headers: Mapping[str, str]) -> None:
        super().__init__(envelope(error), status_code=error.status, headers=headers)
        self._code = error.code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        scope[_CODE] = self._code
        await super().__call__(scope, receive, send)


def error_code(scope: Scope) -> str:
    """Return the code of the error that a request was answered with; empty: it was not."""
    code: str = scope.get(_CODE, "")
    return code


def error_response(error: ErnieError) -> JSONResponse:
    """Return the HTTP response of an error, with ``Retry-After`` where a retry can help."""
    headers = {}
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(error.retry_after_s)
    elif error.status in _RETRY_AFTER_S:
        headers["Retry-After"] = _RETRY_AFTER_S[error.status]
    if error.status == Unauthorized.status:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, BodyTooSlow):
        headers["Connection"] = "close"  # the rest of the body would be parsed as the next request
    if error.status == UnsupportedEncoding.status:
        headers["Accept-Encoding"] = "gzip"
    return _ErrorResponse(error, headers)


def from_validation(error: ValidationError) -> ErnieError:
    """Return the first error that pydantic found; ``param`` is its field, but ``messages`` inside these."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    kind, location, reason = first["type"], first["loc"], first["msg"]
    if kind == "json_invalid":
        return InvalidValue(f"the request body is not valid JSON: {reason.removeprefix('Invalid JSON: ')}")
    if not location:
        return InvalidValue("the request body must be a JSON object")
    path = "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in location)[1:]
    names = [part for part in location if isinstance(part, str)]
    param = names[0 if "messages" in names else -1] if names else None
    if kind == "missing":
        return MissingParameter(f"{path} is missing", param)
    return InvalidValue(f"{path}: {reason.removeprefix('Value error, ')}", param)


def install_handlers(app: FastAPI, paths: Iterable[str]) -> None:
    """Make an app answer errors in the envelope; the 404 of an unknown path lists ``paths``."""
    app.add_exception_handler(ErnieError, _answer_ernie_error)
    app.add_exception_handler(HTTPException, partial(_answer_http_exception, paths))


async def _answer_ernie_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, ErnieError):
        raise error
    return error_response(error)


async def _answer_http_exception(paths: Iterable[str], request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    where = f"{request.method} {request.url.path}"
    if error.status_code == UnknownRoute.status:
        has_slash = request.url.path.endswith("/") and request.url.path != "/"
        way_out = "leave out the slash at the end" if has_slash else f"see {', '.join(paths)}"
        return error_response(UnknownRoute(f"{where} does not exist; {way_out}"))
    if error.status_code == WrongMethod.status:
        methods = set((error.headers or {}).get("Allow", "").split(", "))
        allowed = ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
        response = error_response(WrongMethod(f"{where} is not allowed; use {allowed}"))
        response.headers["Allow"] = allowed
        return response
    return error_response(InvalidRequest(f"{where}: {error.detail}"))
