"""The served models: their public names, and what they can do.

They come from Triton (repository index, then ``control`` describe of each model) and are cached for a few
seconds. While Triton is slow to answer, the previous list is used.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ernie_frontend.settings import Settings
from ernie_frontend.triton.single_flight import SingleFlight
from ernie_wire.errors import ErnieError, ModelNotFound, ModelUnavailable
from ernie_wire.status import Description, Health, Status

logger = logging.getLogger(__name__)

_DEFAULT = "default"
_FAILURE_AGE_S = 1.0  # for this long after a failure, requests fail at once
_SLOW_S = 5.0  # a Triton that has not answered for this long is not just slow; above the deadline of one call
_MAX_NAME_SHOWN = 100
_PREFERENCE = {"ready": 0, "starting": 1, "failed": 2, "unconfigured": 3}


class ControlClient(Protocol):
    """The calls that the registry needs; ``TritonPool`` has them."""

    async def ready_models(self) -> list[str]:
        """Return the names of the loaded models."""

    async def describe(self, model: str) -> Status:
        """Return the description of a model."""

    async def health(self, model: str) -> Health:
        """Return the health of a model."""


@dataclass(frozen=True)
class ModelEntry:
    """One Triton entry of ours.

    Attributes:
        name: the entry's name in Triton.
        state: ``ready``, ``starting``, ``unconfigured`` or ``failed``.
        engine: the engine's description, or None while there is none.
    """

    name: str
    state: str
    engine: Description | None

    @property
    def is_served(self) -> bool:
        """Whether the model is listed: entries without weights are not."""
        return self.engine is not None and self.state not in ("unconfigured", "failed")

    @property
    def may_read_media(self) -> bool:
        """Whether the model reads images or videos, or that is not known yet."""
        return self.state == "starting" if self.engine is None else set(self.engine.modalities) > {"text"}


@dataclass(frozen=True)
class ServedModel:
    """A model and the name that its answers carry."""

    public_name: str
    entry: ModelEntry


def unsupported_model(name: str, known: str) -> ModelNotFound:
    """Return the error of an unknown name, in FastDeploy's words."""
    shown = name if len(name) <= _MAX_NAME_SHOWN else f"{name[:_MAX_NAME_SHOWN]}..."
    return ModelNotFound(f"Unsupported model: [{shown}], support {known}", "model")


class ModelRegistry:
    """The served models, fetched again when they are older than ``Settings.registry_ttl_s``."""

    def __init__(
        self, control: ControlClient, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._control = control
        self._settings = settings
        self._clock = clock
        self._entries: dict[str, ModelEntry] = {}
        self._failing_since_s: float | None = None
        age_s = settings.registry_ttl_s
        self._flight = SingleFlight(self._fetch, age_s, min(age_s, _FAILURE_AGE_S), clock)

    async def resolve(self, name: str | None) -> ServedModel:
        """Return the model that a request's ``model`` selects.

        An exact name selects its model and any other goes to the default model; with ``served_model_name``
        only that name and ``default`` are known.

        Raises:
            ModelNotFound: the name is not served.
            ModelUnavailable: Triton cannot be reached or has no such model.
        """
        entries = await self._fresh()
        only = self._settings.served_model_name
        if only is not None:
            if name not in (None, "", only, _DEFAULT):
                raise unsupported_model(name, f"[{only}] or default")
            return ServedModel(only, self._default(entries))
        if name is not None and name in entries:
            return ServedModel(name, entries[name])
        entry = self._default(entries)
        return ServedModel(entry.name, entry)

    async def resolve_again(self, name: str | None) -> ServedModel:
        """Return the same as ``resolve``, but not from the cache."""
        self._flight.forget()
        return await self.resolve(name)

    async def listed(self) -> list[ServedModel]:
        """Return the models that ``/v1/models`` offers.

        Raises:
            ModelUnavailable: Triton cannot be reached.
        """
        entries = await self._fresh()
        only = self._settings.served_model_name
        if only is None:
            return [ServedModel(entry.name, entry) for entry in entries.values() if entry.is_served]
        entry = self._default(entries)
        return [ServedModel(only, entry)] if entry.is_served else []

    async def longest_context(self) -> int | None:
        """Return the longest context of any model, in tokens; None while it is unknown."""
        entries = (await self._fresh()).values()
        return max((entry.engine.max_model_len for entry in entries if entry.engine), default=None)

    async def read_media(self) -> bool:
        """Return whether a model reads images or videos; one that starts may."""
        return any(entry.may_read_media for entry in (await self._fresh()).values())

    async def health(self) -> Health:
        """Return the current health of the default model, never a cached one.

        Raises:
            ErnieError: the model or Triton does not answer.
        """
        entry = self._default(await self._fresh())
        return await self._control.health(entry.name)

    def _default(self, entries: Mapping[str, ModelEntry]) -> ModelEntry:
        name = self._settings.default_model
        if name is not None:
            if name not in entries:
                raise ModelUnavailable(f"the model {name} is not loaded now; try again later")
            return entries[name]
        if not entries:
            raise ModelUnavailable("Triton has no model of ernie-triton loaded", "model")
        return min(entries.values(), key=lambda entry: _PREFERENCE.get(entry.state, len(_PREFERENCE)))

    async def _fresh(self) -> Mapping[str, ModelEntry]:
        try:
            entries = await self._flight.get()
        except ModelUnavailable as error:
            if not self._entries or self._has_failed_long():
                raise
            # Triton may only be slow; if it is not, the request itself will fail.
            logger.debug("the list of models could not be fetched again: %s", error.message)
            return self._entries
        if not entries:  # the first model may be loaded at any moment
            self._flight.forget()
        return entries

    def _has_failed_long(self) -> bool:
        failing_since_s = self._failing_since_s
        return failing_since_s is not None and self._clock() - failing_since_s >= _SLOW_S

    async def _fetch(self) -> Mapping[str, ModelEntry]:
        began_s = self._clock()
        try:
            names = await self._control.ready_models()
        except ModelUnavailable:
            if self._failing_since_s is None:
                self._failing_since_s = began_s
            raise
        self._failing_since_s = None
        entries = await asyncio.gather(*(self._describe(name) for name in names))
        self._entries = {entry.name: entry for entry in entries if entry is not None}
        return self._entries

    async def _describe(self, name: str) -> ModelEntry | None:
        """Return an entry with its description; None for a foreign model, which has no ``control``."""
        try:
            status = await self._control.describe(name)
        except ModelUnavailable:
            return self._entries.get(name)
        except ErnieError:
            return None
        return ModelEntry(name, status.state, status.engine)
