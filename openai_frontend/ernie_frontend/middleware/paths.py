"""ASGI middleware for what the router cannot decide: HEAD, paths with line breaks, and the metrics port."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from ernie_frontend.http_errors import UnknownRoute, error_response

METRICS_PATH = "/metrics"


class RequestLine:
    """Answers HEAD as GET, without the body (RFC 9110 9.3.2), and 404 to paths with a line break.

    Starlette's router would match a path that ends in a line break, but the middleware that compares paths
    would not: such a request would escape authentication and limits.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 404."""
        if scope["type"] == "http":
            if "\n" in scope["path"]:
                error = UnknownRoute("a path has no line breaks")
                await error_response(error)(scope, receive, send)
                return
            if scope["method"] == "HEAD":  # uvicorn keeps the original scope, and leaves the body out
                scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


class MetricsPort:
    """Answers 404 to ``/metrics`` on other ports than ``port``, and to everything else on it."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 404."""
        if scope["type"] == "http" and (scope["server"][1] == self._port) != (scope["path"] == METRICS_PATH):
            error = UnknownRoute(
                f"{scope['path']} is not on this port; {METRICS_PATH} alone is on {self._port}"
            )
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)
