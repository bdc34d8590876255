"""``GET /v1/models`` and ``GET /v1/models/{model}``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from ernie_frontend.routes.services import Services
from ernie_frontend.schema.openapi import responses
from ernie_frontend.schema.responses import ModelCard, ModelList
from ernie_frontend.triton.model_registry import ServedModel, unsupported_model

router = APIRouter()


@router.get("/v1/models", response_model=None, responses=responses(ModelList, 401, 503))
async def list_models(request: Request) -> dict[str, Any]:
    """List the served models."""
    services = Services.of(request)
    models = await services.models.listed()
    return {"object": "list", "data": [_card(model, services.started_at) for model in models]}


@router.get("/v1/models/{name:path}", response_model=None, responses=responses(ModelCard, 401, 404, 503))
async def retrieve_model(request: Request, name: str) -> dict[str, Any]:
    """Return one of the listed models; unlike in a request, the name must be exact."""
    if not name:
        return await list_models(request)
    services = Services.of(request)
    models = await services.models.listed()
    for model in models:
        if model.public_name == name:
            return _card(model, services.started_at)
    raise unsupported_model(name, f"[{', '.join(model.public_name for model in models)}]")


def _card(model: ServedModel, created: int) -> dict[str, Any]:
    engine = model.entry.engine
    return {
        "id": model.public_name,
        "object": "model",
        "created": created,
        "owned_by": "ernie-triton",
        "root": engine and engine.root,
        "parent": None,
        "max_model_len": engine and engine.max_model_len,
        "permission": [],
        "architecture": engine and engine.architecture,
        "modalities": engine and engine.modalities,
        "limit_mm_per_prompt": engine and engine.limit_mm_per_prompt,
        "dtype": engine and engine.dtype,
        "quantization": engine and engine.quantization,
    }
