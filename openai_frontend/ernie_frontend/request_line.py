"""An ASGI middleware for what a request line may say beyond the routes: HEAD, and paths of several lines.

Must not know any route.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from ernie_frontend.errors import UnknownRoute, error_response


class RequestLine:
    """Answers HEAD as GET, without the body (RFC 9110 9.3.2), and 404 to paths with a line break.

    With a line break at its end a path would match Starlette's route all the same, but none of the paths that
    other middlewares look for.
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
            if scope["method"] == "HEAD":  # uvicorn, which has the scope as it was, leaves the body out
                scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
