"""The model in the tritonserver of one ``serve``: loaded, watched, and loaded again.

Triton goes on answering "ready" when the stub of a model is dead, and never starts it again; explicit model
control can: unload, then load. So the model is asked for its health (never for a generation), and when Triton
cannot deliver even that question, the model is loaded again. An engine that is restarting answers through its
stub, so it is left alone. This module must not know how Triton is started, nor the frontend.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from typing import Any

import tritonclient.grpc.aio as grpc_client
from tritonclient.utils import InferenceServerException

from ernie_cli.errors import CommandError
from ernie_frontend.settings import Settings
from ernie_frontend.triton_client import TritonClient, TritonUnreachable
from ernie_wire.errors import ErnieError

START_DEADLINE_S = 120.0
HEALTH_INTERVAL_S = 2.0
DEATHS_BEFORE_RELOAD = 2
SILENCE_LIMIT_S = 120.0
MOST_RELOADS = 5
RELOADS_WINDOW_S = 600.0
_POLL_S = 0.1
# gRPC's own second would be most of the start: the first try comes before Triton listens.
_CHANNEL_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]

logger = logging.getLogger(__name__)


class TritonModel:
    """One entry of a running tritonserver, through gRPC. Use inside one event loop; close it."""

    def __init__(self, url: str, entry: str) -> None:
        self._entry = entry
        self._server = grpc_client.InferenceServerClient(url, channel_args=_CHANNEL_OPTIONS)
        self._asker = TritonClient(url, Settings(triton_urls=(url,)))
        self._reloads: deque[float] = deque()

    async def close(self) -> None:
        """Close the connections."""
        await self._asker.close()
        await self._server.close()

    async def wait_until_live(self) -> str:
        """Wait until the server answers; return its version.

        Raises:
            CommandError: it does not within ``START_DEADLINE_S``.
        """
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline:
            if version := await self._version():
                return version
            await asyncio.sleep(_POLL_S)
        raise CommandError(f"tritonserver does not answer after {START_DEADLINE_S:g} s; its log is above")

    async def _version(self) -> str | None:
        try:
            return str((await self._server.get_server_metadata(client_timeout=1.0)).version)
        except InferenceServerException:
            return None

    async def load(self) -> None:
        """Load the entry; takes as long as the weights take.

        Raises:
            CommandError: with the engine's own sentence.
        """
        try:
            await self._server.load_model(self._entry)
        except InferenceServerException as error:
            raise CommandError(start_error(error.message() or str(error))) from None

    async def engine_description(self) -> dict[str, Any] | None:
        """Return what the engine says of itself, or None if it does not answer now."""
        try:
            return (await self._asker.control(self._entry, {"op": "describe"})).get("engine")
        except ErnieError as error:
            logger.warning("%s does not describe itself: %s", self._entry, error.message)
            return None

    async def keep_loaded(self) -> None:
        """Load the entry again whenever its stub is dead; returns never.

        Raises:
            CommandError: that did not help, or happens too often.
        """
        patience = Patience(time.monotonic())
        while True:
            await asyncio.sleep(HEALTH_INTERVAL_S)
            if patience.is_over(await self._fault(), time.monotonic()):
                await self._reload()
                patience = Patience(time.monotonic())

    async def _fault(self) -> ErnieError | None:
        """Ask the stub for its health; return what came instead."""
        try:
            await self._asker.control(self._entry, {"op": "health"})
        except ErnieError as error:
            logger.warning("%s does not answer: %s", self._entry, error.message)
            return error
        return None

    async def _reload(self) -> None:
        now = time.monotonic()
        while self._reloads and now - self._reloads[0] > RELOADS_WINDOW_S:
            self._reloads.popleft()
        if len(self._reloads) == MOST_RELOADS:
            raise CommandError(
                f"{self._entry} died {MOST_RELOADS + 1} times within {RELOADS_WINDOW_S / 60:g} minutes;"
                " the log above says how"
            )
        self._reloads.append(now)
        logger.warning("%s is dead inside Triton: loading it again", self._entry)
        try:
            await self._server.unload_model(self._entry)
        except InferenceServerException as error:
            logger.warning("unloading %s: %s", self._entry, error.message())
        await self.load()
        logger.warning("%s is loaded again", self._entry)


class Patience:
    """When to give up on a stub: soon if Triton says that it is dead, late if it is only silent.

    A stub that is slow, stopped or starved of its processor is silent too, and loading it again loses every
    request in flight.
    """

    def __init__(self, now_s: float) -> None:
        self._heard_at_s = now_s
        self._deaths = 0

    def is_over(self, fault: ErnieError | None, now_s: float) -> bool:
        """Take note of one question's outcome; return whether to load the model again."""
        if fault is None:
            self._heard_at_s = now_s
        is_silent = isinstance(fault, TritonUnreachable)
        self._deaths = 0 if fault is None or is_silent else self._deaths + 1
        return self._deaths >= DEATHS_BEFORE_RELOAD or now_s - self._heard_at_s >= SILENCE_LIMIT_S


def start_error(message: str) -> str:
    """Return the engine's sentence out of what Triton says of a failed load."""
    sentence = re.sub(r"(?s)^.*?TritonModelException: ", "", message)
    sentence = re.sub(r"(?s)\n+At:\n.*$", "", sentence)  # where in our code it was raised
    sentence = re.sub(r"^load failed for model '[^']*': version \d+ is at UNAVAILABLE state: ", "", sentence)
    return " ".join(sentence.strip().rstrip(";").split())
