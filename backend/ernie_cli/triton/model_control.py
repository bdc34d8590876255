"""The model in the tritonserver of one ``serve``: loaded, watched, and unloaded.

Triton goes on answering "ready" when the stub of a model is dead, and never restarts it, but explicit model
control can: unload, then load. So the model is asked for its health (never for a generation), and when Triton
cannot deliver even that question, the model is to be loaded again. An engine that restarts answers through its
stub, so it is left alone. Triton is asked whether it is live, too: if it does not answer, it hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from typing import NoReturn

import tritonclient.grpc.aio as grpc_client
from tritonclient.utils import InferenceServerException

from ernie_cli.errors import CommandError
from ernie_frontend.settings import Settings
from ernie_frontend.triton.call_errors import TritonUnreachable
from ernie_frontend.triton.client import TritonClient
from ernie_wire.errors import EngineCrashed, ErnieError, InternalError, parse_error
from ernie_wire.status import Description

START_DEADLINE_S = 120.0
HEALTH_INTERVAL_S = 1.0
_RECHECK_INTERVAL_S = 0.5
DEATHS_BEFORE_RELOAD = 2
SILENCE_LIMIT_S = 30.0
LIVENESS_LIMIT_S, LIVENESS_QUESTIONS = 2.5, 2
"""How long Triton may take to say that it is live, and how often in a row it may fail to. It waits for nothing
to answer: that takes milliseconds, or up to two seconds with all cores busy. A single question can be lost when
this process, or the whole machine, was asleep; too short a limit would end a healthy Triton."""
UNLOAD_LIMIT_S = 10.0
_POLL_S = 0.02
# gRPC's own second would be most of the start: the first try comes before Triton listens.
_CHANNEL_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]

logger = logging.getLogger(__name__)


class ModelDied(CommandError):
    """The model in a Triton that is live does not answer."""


class EngineDied(CommandError):
    """The engine process ended before it was ready, without an error of its own."""


class TritonModel:
    """One entry of a running tritonserver, over gRPC. Use it inside one event loop, and close it."""

    def __init__(self, url: str, entry: str) -> None:
        self._entry = entry
        self._control = grpc_client.InferenceServerClient(url, channel_args=_CHANNEL_OPTIONS)
        self._client = TritonClient(url, Settings(triton_urls=(url,)))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
        await self._control.close()

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
            return str((await self._control.get_server_metadata(client_timeout=1.0)).version)
        except InferenceServerException:
            return None

    async def load(self) -> None:
        """Load the entry; takes as long as the weights take.

        Raises:
            EngineDied: the engine did, without an error of its own.
            CommandError: with the engine's error.
        """
        try:
            await self._control.load_model(self._entry)
        except InferenceServerException as error:
            raise load_error(error.message() or str(error)) from None

    async def engine_description(self) -> Description | None:
        """Return the engine's description, or None if it does not answer now."""
        try:
            return (await self._client.describe(self._entry)).engine
        except ErnieError as error:
            logger.warning("%s does not describe itself: %s", self._entry, error.message)
            return None

    async def watch(self) -> NoReturn:
        """Ask for the model's health repeatedly.

        Raises:
            ModelDied: it does not answer; ``unload`` and ``load`` help.
            CommandError: Triton itself does not answer.
        """
        detector = FailureDetector(time.monotonic())
        fault: ErnieError | None = None
        while True:
            await asyncio.sleep(HEALTH_INTERVAL_S if fault is None else _RECHECK_INTERVAL_S)
            fault, _ = await asyncio.gather(self._fault(), self._check_live())
            if detector.has_failed(fault, time.monotonic()):
                raise ModelDied(f"{self._entry} is dead inside Triton")

    async def _fault(self) -> ErnieError | None:
        """Ask the stub for its health; return the error that came instead."""
        try:
            await self._client.health(self._entry)
        except ErnieError as error:
            logger.warning("%s does not answer: %s", self._entry, error.message)
            return error
        return None

    async def _check_live(self) -> None:
        for _ in range(LIVENESS_QUESTIONS):
            with contextlib.suppress(InferenceServerException):
                await self._control.is_server_live(client_timeout=LIVENESS_LIMIT_S)
                return
        raise CommandError(f"tritonserver does not answer for {LIVENESS_QUESTIONS * LIVENESS_LIMIT_S:g} s")

    async def unload(self) -> None:
        """Unload the entry; an error is only logged, since a dead entry can be loaded all the same."""
        try:
            await self._control.unload_model(self._entry, client_timeout=UNLOAD_LIMIT_S)
        except InferenceServerException as error:
            logger.warning("unloading %s: %s", self._entry, error.message())


class FailureDetector:
    """Decides when a stub has failed: soon if Triton says that it is dead, late if it is only silent.

    A stub that is slow, stopped or starved of its processor is silent too, and loading the model again loses
    every request in flight.
    """

    def __init__(self, now_s: float) -> None:
        self._heard_at_s = now_s
        self._deaths = 0

    def has_failed(self, fault: ErnieError | None, now_s: float) -> bool:
        """Count the outcome of one health check; return whether to load the model again."""
        if fault is None:
            self._heard_at_s = now_s
        is_silent = isinstance(fault, TritonUnreachable)
        self._deaths = 0 if fault is None or is_silent else self._deaths + 1
        return self._deaths >= DEATHS_BEFORE_RELOAD or now_s - self._heard_at_s >= SILENCE_LIMIT_S


def load_error(message: str) -> CommandError:
    """Return the engine's error from Triton's message about a failed load."""
    sentence = re.sub(r"(?s)^.*?TritonModelException: ", "", message)
    sentence = re.sub(r"(?s)\n+At:\n.*$", "", sentence)  # where in our code it was raised
    sentence = re.sub(r"^load failed for model '[^']*': version \d+ is at UNAVAILABLE state: ", "", sentence)
    sentence = " ".join(sentence.strip().rstrip(";").split())
    error = parse_error(sentence)
    if not isinstance(error, InternalError):
        return CommandError(sentence)
    kind = EngineDied if isinstance(error, EngineCrashed) else CommandError
    return kind(error.message, exit_signal=error.exit_signal)
