"""``/health`` and ``/ping``: 200 and an empty body while the default model's engine is alive, else 503.

Every check asks the stub, which knows from the heartbeats of the engine's loop; nothing is generated or cached.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from ernie_frontend.routes.services import Services
from ernie_frontend.schema.openapi import responses
from ernie_wire.errors import ModelUnavailable

router = APIRouter()


@router.get("/health", response_class=Response, responses=responses(None, 503))
@router.get("/ping", include_in_schema=False)
@router.post("/ping", include_in_schema=False)
async def check_health(request: Request) -> Response:
    """Check whether requests can be answered now."""
    services = Services.of(request)
    health = await services.models.health()
    if not health.ready:
        raise ModelUnavailable(f"the engine is not ready: {health.detail or health.state}")
    return Response(status_code=200)
