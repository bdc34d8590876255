"""Which models are served, under which names, and what they can do.

Asked of Triton (repository index, then ``control`` describe of each model) and kept for a few seconds; a
description that cannot be had just now is kept from before. Whoever asks while Triton is being asked waits for
the same answer. Must not know HTTP.
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
_FAILURE_AGE_S = 1.0  # requests of this long after a failure are told at once
_SLOW_S = 5.0  # a Triton that has failed to answer for this long is not slow: longer than one question may take
_MAX_NAME_SHOWN = 100
_PREFERENCE = {"ready": 0, "starting": 1, "failed": 2, "unconfigured": 3}


class ControlClient(Protocol):
    """The questions this module asks; ``TritonPool`` answers them."""

    async def ready_models(self) -> list[str]:
        """Return the names of the loaded models."""
        ...

    async def describe(self, model: str) -> Status:
        """Return what a model says of itself."""
        ...

    async def health(self, model: str) -> Health:
        """Return how a model is."""
        ...


@dataclass(frozen=True)
class ModelEntry:
    """One Triton entry of ours.

    Attributes:
        name: the entry's name in Triton.
        state: ``ready``, ``starting``, ``unconfigured`` or ``failed``.
        engine: what the engine says of its model, or None while there is none.
    """

    name: str
    state: str
    engine: Description | None

    @property
    def is_served(self) -> bool:
        """Whether the model has been seen to work: entries without weights are not offered."""
        return self.engine is not None and self.state not in ("unconfigured", "failed")

    @property
    def vocab_size(self) -> int | None:
        """Number of token ids, or None while the engine does not tell."""
        return None if self.engine is None else self.engine.vocab_size

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model reads: ``text``, ``image``, ``video``; nothing while the engine does not tell."""
        return () if self.engine is None else self.engine.modalities

    @property
    def longest_token_bytes(self) -> int | None:
        """Most bytes of text that one token stands for; None or 0 if the engine does not tell."""
        return None if self.engine is None else self.engine.longest_token_bytes

    @property
    def max_model_len(self) -> int | None:
        """Tokens of prompt and answer, or None while the engine does not tell."""
        return None if self.engine is None else self.engine.max_model_len


@dataclass(frozen=True)
class ServedModel:
    """A model and the name that answers carry."""

    public_name: str
    entry: ModelEntry


def unsupported_model(name: str, known: str) -> ModelNotFound:
    """Return the error of a name that nothing is served under, in FastDeploy's words."""
    shown = name if len(name) <= _MAX_NAME_SHOWN else f"{name[:_MAX_NAME_SHOWN]}..."
    return ModelNotFound(f"Unsupported model: [{shown}], support {known}", "model")


class ModelRegistry:
    """The served models, asked again when the last answer is older than ``Settings.registry_ttl_s``."""

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
        """Return the model that a request's ``model`` means.

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
        """Return the most tokens that any model takes, or None while none tells."""
        entries = (await self._fresh()).values()
        return max((entry.max_model_len for entry in entries if entry.max_model_len), default=None)

    async def health(self) -> Health:
        """Return how the default model is, never from before.

        Raises:
            ErnieError: the model or Triton does not answer.
        """
        entry = self._default(await self._fresh())
        return await self._control.health(entry.name)

    def _default(self, entries: Mapping[str, ModelEntry]) -> ModelEntry:
        wanted = self._settings.default_model
        if wanted is not None:
            if wanted not in entries:
                raise ModelUnavailable(f"the model {wanted} is not loaded now; try again later")
            return entries[wanted]
        if not entries:
            raise ModelUnavailable("Triton has no model of ernie-triton loaded", "model")
        return min(entries.values(), key=lambda entry: _PREFERENCE.get(entry.state, len(_PREFERENCE)))

    async def _fresh(self) -> Mapping[str, ModelEntry]:
        try:
            entries = await self._flight.get()
        except ModelUnavailable as error:
            if not self._entries or self._has_failed_long():
                raise
            # The request itself will find out whether Triton is only slow.
            logger.debug("the list of models could not be asked again: %s", error.message)
            return self._entries
        if not entries:  # the first model may be loaded any moment
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
        """Return what an entry says of itself; None for one that is not ours, and so knows no ``control``."""
        try:
            status = await self._control.describe(name)
        except ModelUnavailable:
            return self._entries.get(name)
        except ErnieError:
            return None
        return ModelEntry(name, status.state, status.engine)
