"""An ASGI middleware for metrics on a port of their own: nothing else is there, and they are nowhere else."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from ernie_frontend.errors import UnknownRoute, error_response

METRICS_PATH = "/metrics"


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
