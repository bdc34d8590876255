"""The ASGI application: its routes, its middleware, and the lifetime of its connections to Triton."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from ernie_frontend.cors import READABLE_HEADERS
from ernie_frontend.http.http1 import DRAIN
from ernie_frontend.http.offload import BodyReader
from ernie_frontend.http_errors import install_handlers
from ernie_frontend.media.fetcher import MediaFetcher
from ernie_frontend.metrics import Metrics
from ernie_frontend.middleware.api_keys import ApiKeys
from ernie_frontend.middleware.auth import ApiKeyAuth
from ernie_frontend.middleware.bodies import Bodies
from ernie_frontend.middleware.concurrency import ConcurrencyLimit, Slots, slots_file
from ernie_frontend.middleware.paths import MetricsPort, RequestLine
from ernie_frontend.middleware.request_log import RequestLog
from ernie_frontend.routes import about, completions, health, models, tokenization
from ernie_frontend.routes import metrics as metrics_route
from ernie_frontend.routes.services import Services
from ernie_frontend.schema.openapi import OPENAPI_PATH, DescribedApp
from ernie_frontend.settings import Settings
from ernie_frontend.triton.model_registry import ModelRegistry
from ernie_frontend.triton.pool import TritonPool

_ROUTERS = [module.router for module in (completions, models, tokenization, health, metrics_route, about)]
_PATHS = {OPENAPI_PATH} | {
    route.path
    for router in (*_ROUTERS, about.docs_router)
    for route in router.routes
    if isinstance(route, APIRoute)
}


def create_app(settings: Settings, slots_path: str | None = None) -> FastAPI:
    """Return the ASGI application of one frontend process.

    Args:
        settings: of the process.
        slots_path: file of the slots that all workers share; None makes one for this process alone.
    """
    metrics = Metrics()
    slots_path = slots_path or slots_file()
    slots = Slots(slots_path, settings.max_concurrency)
    # Downloads get half of the requests in flight: slow hosts must not keep out requests without URLs.
    download_slots = Slots(slots_path, -(-settings.max_concurrency // 2), first=settings.max_concurrency)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Callable[[], None]]]:
        pool = TritonPool(settings)
        models = ModelRegistry(pool, settings)
        media = MediaFetcher(settings.media, download_slots)
        body_reader = BodyReader()
        app.state.services = Services(settings, pool, models, media, metrics, body_reader)
        yield {DRAIN: pool.drain}
        body_reader.close()
        await media.close()
        await pool.close()
        slots.close()
        download_slots.close()

    async def max_body_bytes() -> int:
        services: Services = app.state.services
        return settings.max_media_body_bytes if await services.models.read_media() else settings.max_body_bytes

    app = DescribedApp(
        lifespan=lifespan,
        openapi_url=OPENAPI_PATH if settings.has_docs else None,
        docs_url=None,  # FastAPI's own page loads a script from another host
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    install_handlers(app, sorted(path for path in _PATHS if path.startswith("/v1/") and "{" not in path))
    for router in _ROUTERS:
        app.include_router(router)
    if settings.has_docs:
        app.include_router(about.docs_router)
    # The last middleware added is the outermost.
    app.add_middleware(
        Bodies,
        small_bytes=settings.max_body_bytes,
        max_body_bytes=max_body_bytes,
        timeout_s=settings.body_timeout_s,
    )
    app.add_middleware(ConcurrencyLimit, slots=slots, max_concurrency=settings.max_concurrency)
    app.add_middleware(ApiKeyAuth, api_keys=ApiKeys(settings.api_keys, settings.api_key_file))
    if settings.metrics_port is not None:
        app.add_middleware(MetricsPort, port=settings.metrics_port)
    app.add_middleware(RequestLine)
    app.add_middleware(RequestLog, metrics=metrics, paths=_PATHS)
    if settings.cors is not None:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors.origins,
            allow_methods=settings.cors.methods,
            allow_headers=settings.cors.headers,
            allow_credentials=settings.cors.has_credentials,
            expose_headers=READABLE_HEADERS,
        )
    return app
