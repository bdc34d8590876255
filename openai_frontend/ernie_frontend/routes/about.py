"""``/version``, and ``/docs``, a page made from openapi.json."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from ernie_frontend.schema.openapi import VERSION
from ernie_frontend.schema.page import CONTENT_SECURITY_POLICY, page
from ernie_frontend.schema.responses import Version

router = APIRouter()
docs_router = APIRouter(include_in_schema=False)


@router.get("/version")
async def show_version() -> Version:
    """Return the version of the server, in vLLM's format."""
    return Version(version=VERSION)


@docs_router.get("/docs")
async def show_docs(request: Request) -> HTMLResponse:
    """Return the page, which loads no other file and runs no script."""
    return HTMLResponse(
        page(request.app.openapi()),
        headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY, "X-Content-Type-Options": "nosniff"},
    )
