"""API keys: an ASGI middleware that lets only known keys into ``/v1``.

A key stands in ``Authorization: Bearer KEY`` or, as Anthropic's clients send it, in ``x-api-key: KEY``.

Health checks stay open, and so does OPTIONS (a browser's preflight carries no key). Must not know what the
routes do.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ernie_frontend.api_keys import ApiKeys
from ernie_frontend.errors import Unauthorized, error_response


class ApiKeyAuth:
    """Answers 401 to requests under ``/v1`` without one of the keys; no keys, no check."""

    def __init__(self, app: ASGIApp, api_keys: ApiKeys) -> None:
        self._app = app
        self._keys = api_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] == "http" and self._keys.are_asked_for and self._is_guarded(scope):
            keys = _given_keys(Headers(scope=scope))
            if sum(self._keys.has(key) for key in keys) == 0:
                reason = "the API key is wrong" if any(keys) else "the API key is missing"
                error = Unauthorized(f"{reason}; send the header Authorization: Bearer KEY or x-api-key: KEY")
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    @staticmethod
    def _is_guarded(scope: Scope) -> bool:
        path: str = scope["path"]
        return scope["method"] != "OPTIONS" and (path == "/v1" or path.startswith("/v1/"))


def _given_keys(headers: Headers) -> tuple[bytes, bytes]:
    """Return what stands where a key may stand, in the bytes that came; empty where there is none."""
    scheme, _, key = headers.get("authorization", "").encode("latin-1").partition(b" ")
    bearer = key if scheme.lower() == b"bearer" else b""
    return bearer.strip(), headers.get("x-api-key", "").encode("latin-1").strip()
