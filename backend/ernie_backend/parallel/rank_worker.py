"""A rank other than 0: it loads its part and computes the steps that rank 0 announces.

One thread reads, one beats, the main one works. The end of the socket ends the process, wherever the main
thread is: a rank holds nothing that outlives its group. This module must not know requests, schedules or texts.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, TypeVar

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.devices.backend import find_backend
from ernie_backend.devices.host import available_bytes
from ernie_backend.errors import StartError
from ernie_backend.parallel.layout import engine_layout
from ernie_backend.parallel.messages import (
    CODEC,
    AllHere,
    Allocate,
    Failed,
    Here,
    Join,
    Loaded,
    RankMessage,
    Step,
)
from ernie_backend.parallel.pulse import Pulse
from ernie_backend.parallel.worker import Worker
from ernie_backend.planning.engine_plan import engine_plan
from ernie_backend.settings.reader import model_directory, read_settings
from ernie_wire.channel import Channel

logger = logging.getLogger(__name__)

BEAT_S = 0.5
_M = TypeVar("_M")
_BLAME_S, _BLAME_AFTER_MEETING_S = 3.0, 15.0
_OF_A_MACHINE = ("model", "weight_cache", "threads")
"""Parameters that each machine has its own of."""


def config_digest(directory: Path) -> str:
    """Return a hash of a model's config.json: equal on all ranks."""
    return hashlib.sha256((directory / "config.json").read_bytes()).hexdigest()


class Follower:
    """One rank and its socket to rank 0.

    Args:
        sock: the socket.
        own: parameters that count on this machine whatever rank 0 says.
    """

    def __init__(self, sock: socket.socket, own: Mapping[str, str]) -> None:
        self._available = available_bytes()  # before anything is loaded
        self._own = {name: own[name] for name in _OF_A_MACHINE if name in own}
        self._inbox: queue.SimpleQueue[RankMessage] = queue.SimpleQueue()
        self._channel = Channel(sock, CODEC, "rank 0")
        self._channel.listen(self._inbox.put, _end)
        self._pulse = Pulse()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def run(self) -> int:
        """Join, load, and compute until the socket ends; return 1 if it could not start, 2 if it failed."""
        try:
            self._follow()
        except Exception as error:
            has_met = not self._pulse.collectives.has_failed
            if isinstance(error, StartError) and has_met:
                logger.error("the rank cannot start: %s", error.message)  # noqa: TRY400  one line, no traceback
                self._channel.send(Failed(error.message))
                return 1
            logger.exception("the rank failed")
            # If another rank has died or hangs, that is the cause, and the socket ends while we wait.
            time.sleep(_BLAME_S if has_met else _BLAME_AFTER_MEETING_S)
            self._channel.send(Failed(f"{type(error).__name__}: {error}"))
            return 2

    def _follow(self) -> NoReturn:
        join = self._take(Join)
        parameters = {**join.parameters, **self._own}
        directory = model_directory(parameters)
        config = ModelConfig.from_directory(directory)
        if config_digest(directory) != join.config_digest:
            raise StartError(
                f"{directory / 'config.json'} is not that of rank 0; use the same model everywhere"
            )
        settings = read_settings(parameters, config)
        layout = engine_layout(settings)
        backend, _ = find_backend(settings.device)
        if (own := backend.kernels) != join.kernels:
            logger.warning(
                "notice: rank %d computes with %s, and rank 0 with %s: in bits of its own, by which another "
                "expert may be chosen; take equal machines for models with experts",
                *(join.rank, own, join.kernels),
            )
        group = layout.process_group(join.rank, join.master, self._pulse.collectives, self._come)
        worker = Worker.load(settings, config, backend, layout, group)
        plan = engine_plan(settings, config, backend, self._available * len(layout.hosts))
        available = available_bytes() // layout.ranks_per_host
        self._channel.send(Loaded(worker.affordable_blocks(settings, plan, available)))
        num_blocks = self._take(Allocate).num_blocks
        runner = worker.create_runner(replace(worker.block_spec(settings), num_blocks=num_blocks))
        logger.info("rank %d follows", join.rank)
        while True:
            runner.compute(self._take(Step).batch)

    def _come(self) -> None:
        self._channel.send(Here())
        self._take(AllHere)

    def _take(self, kind: type[_M]) -> _M:
        message = self._inbox.get()
        if not isinstance(message, kind):
            raise TypeError(f"rank 0 sent {type(message).__name__}, expected {kind.__name__}")
        return message

    def _beat(self) -> None:
        while True:
            self._channel.send(self._pulse.beat())
            time.sleep(BEAT_S)


def _end(fault: Exception | None) -> None:
    _leave("rank 0 is gone" if fault is None else f"it cannot talk to rank 0: {fault!r}")


def _leave(reason: str) -> NoReturn:
    """End the process without waiting for the main thread, which may be inside a sum that never ends."""
    logger.info("rank ends: %s", reason)
    logging.shutdown()
    os._exit(0)
