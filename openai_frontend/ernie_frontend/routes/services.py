"""The long-lived objects of one frontend process, which the routes get from the app's state."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from starlette.requests import Request

from ernie_frontend.http.offload import BodyReader
from ernie_frontend.media.fetcher import MediaFetcher
from ernie_frontend.metrics import Metrics
from ernie_frontend.settings import Settings
from ernie_frontend.triton.model_registry import ModelRegistry
from ernie_frontend.triton.pool import TritonPool


@dataclass(frozen=True)
class Services:
    """The long-lived objects.

    Attributes:
        settings: of the process.
        triton: the Tritons.
        models: the served models.
        media: fetches images and videos.
        metrics: of this process.
        body_reader: reads request bodies.
        started_at: Unix time of the start, in seconds; the ``created`` of every model.
    """

    settings: Settings
    triton: TritonPool
    models: ModelRegistry
    media: MediaFetcher
    metrics: Metrics
    body_reader: BodyReader
    started_at: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(cls, request: Request) -> Services:
        """Return the services of the app that handles a request."""
        services: Services = request.app.state.services
        return services
