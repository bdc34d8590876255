"""``GET /metrics``: the frontend's metrics, and the engine's gauges if the model answers."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from ernie_frontend.routes.services import Services
from ernie_wire.errors import ErnieError

router = APIRouter()


@router.get("/metrics", response_class=PlainTextResponse)
async def show_metrics(request: Request) -> Response:
    """Return all metrics in Prometheus' text format."""
    services = Services.of(request)
    try:
        health = await services.models.health()
    except ErnieError:
        health = None  # the counters are reported all the same; /health has the reason
    return Response(services.metrics.to_text(health), media_type=CONTENT_TYPE_LATEST)
