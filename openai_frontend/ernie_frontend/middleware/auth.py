"""An ASGI middleware that requires an API key for ``/v1`` and the tokenizer.

A key is sent as ``Authorization: Bearer KEY`` or, by Anthropic's clients, as ``x-api-key: KEY``. Each key has
its own part of the prefix cache, so neither ``usage`` nor the time to the first token reveals what the holders
of other keys have sent.

Health checks stay open, and so does OPTIONS: a browser's preflight carries no key.
"""

from __future__ import annotations

from hashlib import blake2b

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ernie_frontend.http_errors import Unauthorized, error_response
from ernie_frontend.middleware.api_keys import ApiKeys
from ernie_frontend.schema.openapi import needs_key

_SALT = "ernie_frontend.client_salt"


class ApiKeyAuth:
    """Answers 401 to requests without one of the keys, where one is needed; no keys, no check."""

    def __init__(self, app: ASGIApp, api_keys: ApiKeys) -> None:
        self._app = app
        self._keys = api_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] == "http" and self._keys.are_required and self._is_guarded(scope):
            keys = _sent_keys(Headers(scope=scope))
            known = [key for key in keys if self._keys.has(key)]
            if not known:
                reason = "the API key is wrong" if any(keys) else "the API key is missing"
                error = Unauthorized(f"{reason}; send the header Authorization: Bearer KEY or x-api-key: KEY")
                await error_response(error)(scope, receive, send)
                return
            scope[_SALT] = blake2b(known[0], digest_size=16, person=b"client").hexdigest()
        await self._app(scope, receive, send)

    @staticmethod
    def _is_guarded(scope: Scope) -> bool:
        return scope["method"] != "OPTIONS" and needs_key(scope["path"])


def client_salt(scope: Scope) -> str:
    """Return a salt that the requests with one API key share; empty if no key is required."""
    salt: str = scope.get(_SALT, "")
    return salt


def _sent_keys(headers: Headers) -> tuple[bytes, bytes]:
    """Return the keys of both headers as the bytes that were sent; empty for a missing one."""
    scheme, _, key = headers.get("authorization", "").encode("latin-1").partition(b" ")
    bearer = key if scheme.lower() == b"bearer" else b""
    return bearer.strip(), headers.get("x-api-key", "").encode("latin-1").strip()
