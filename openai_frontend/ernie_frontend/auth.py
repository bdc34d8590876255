"""API keys: an ASGI middleware that lets only known bearer keys into ``/v1``.

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
            header = Headers(scope=scope).get("authorization", "").encode("latin-1")  # the bytes as they came
            scheme, _, key = header.partition(b" ")
            if scheme.lower() != b"bearer" or not self._keys.has(key.strip()):
                reason = "the API key is wrong" if key else "the API key is missing"
                error = Unauthorized(f"{reason}; send the header Authorization: Bearer KEY")
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    @staticmethod
    def _is_guarded(scope: Scope) -> bool:
        path: str = scope["path"]
        return scope["method"] != "OPTIONS" and (path == "/v1" or path.startswith("/v1/"))
