"""The process of a rank other than 0: it loads its part and computes the steps that it receives from rank 0.

Started with one of two sets of arguments:

    --socket-fd N                      by rank 0, on its machine
    --settings JSON --index N          by ``ernie-triton serve``, on another machine

SIGINT is ignored, since Ctrl-C reaches the whole foreground group and rank 0 ends its ranks itself. The kernel
kills the process, even a stopped one, when its parent dies. One thread reads, one sends heartbeats, the main
one works. The end of the socket ends the process, wherever the main thread is: a rank holds nothing that
outlives its group.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import logging
import os
import queue
import signal
import socket
import sys
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
from ernie_backend.media.processor import MediaProcessor
from ernie_backend.parallel.layout import read_layout
from ernie_backend.parallel.liveness import HeartbeatSource
from ernie_backend.parallel.messages import (
    CODEC,
    Allocate,
    BarrierArrival,
    BarrierRelease,
    DropMedia,
    EncodePiece,
    Failed,
    Join,
    Loaded,
    RankMessage,
    StartEncoding,
    Step,
)
from ernie_backend.parallel.rendezvous import connect_to_rank_0
from ernie_backend.parallel.worker import Worker
from ernie_backend.planning.engine_plan import engine_plan
from ernie_backend.runner.encoder import Encoder
from ernie_backend.runner.model_runner import ModelRunner
from ernie_backend.settings.reader import model_directory, read_settings
from ernie_wire.channel import Channel
from ernie_wire.processes import die_with_parent

logger = logging.getLogger(__name__)

HEARTBEAT_S = 0.5
_M = TypeVar("_M")
_ROOT_CAUSE_S, _ROOT_CAUSE_AFTER_COLLECTIVE_S = 3.0, 15.0
_PER_MACHINE = ("model", "weight_cache", "threads")
"""Parameters whose values a machine has of its own."""


def main(arguments: list[str] | None = None) -> int:
    """Run a rank; return its exit status."""
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    parser = argparse.ArgumentParser(prog="python -m ernie_backend.parallel")
    parser.add_argument("--socket-fd", type=int, help="descriptor of the socket to rank 0")
    parser.add_argument("--settings", type=json.loads, default={}, help="the engine's parameters, JSON")
    parser.add_argument("--index", type=int, default=0, help="index of this rank among those of its machine")
    options = parser.parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"%(asctime)s rank process {os.getpid()} %(levelname)s %(name)s: %(message)s",
    )
    try:
        sock = _socket(options)
    except StartError as error:
        logger.error("%s", error.message)  # noqa: TRY400  one line, no traceback
        return 1
    return RankWorker(sock, options.settings).run()


def config_digest(directory: Path) -> str:
    """Return a hash of a model's config.json: equal on all ranks."""
    return hashlib.sha256((directory / "config.json").read_bytes()).hexdigest()


class RankWorker:
    """One rank and its socket to rank 0.

    Args:
        sock: the socket.
        own: this machine's parameters; they take precedence over rank 0's where each machine has its own.
    """

    def __init__(self, sock: socket.socket, own: Mapping[str, str]) -> None:
        self._available = available_bytes()  # before anything is loaded
        self._own = {name: own[name] for name in _PER_MACHINE if name in own}
        self._inbox: queue.SimpleQueue[RankMessage] = queue.SimpleQueue()
        self._channel = Channel(sock, CODEC, "rank 0")
        self._channel.listen(self._inbox.put, _end)
        self._heartbeats = HeartbeatSource()
        threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True).start()

    def run(self) -> int:
        """Join, load, and compute until the socket ends; return 1 if it could not start, 2 if it failed."""
        try:
            self._serve()
        except Exception as error:
            is_own = not self._heartbeats.collectives.has_failed
            if isinstance(error, StartError) and is_own:
                logger.error("the rank cannot start: %s", error.message)  # noqa: TRY400  one line, no traceback
                self._channel.send(Failed(error.message))
                return 1
            logger.exception("the rank failed")
            # If another rank has died or hangs, that is the cause: rank 0 ends this process during the wait.
            time.sleep(_ROOT_CAUSE_S if is_own else _ROOT_CAUSE_AFTER_COLLECTIVE_S)
            self._channel.send(Failed(f"{type(error).__name__}: {error}"))
            return 2

    def _serve(self) -> NoReturn:
        join = self._receive(Join)
        parameters = {**join.parameters, **self._own}
        directory = model_directory(parameters)
        config = ModelConfig.from_directory(directory)
        if config_digest(directory) != join.config_digest:
            raise StartError(
                f"{directory / 'config.json'} is not that of rank 0; use the same model everywhere"
            )
        settings = read_settings(parameters, config)
        layout = read_layout(settings.parallel)
        backend, _ = find_backend(settings.device)
        if (own := backend.kernels) != join.kernels:
            logger.warning(
                "notice: rank %d computes with %s, and rank 0 with %s: their bits differ, and may select "
                "different experts; use equal machines for models with experts",
                *(join.rank, own, join.kernels),
            )
        group = layout.process_group(join.rank, join.master, self._heartbeats.collectives, self._barrier)
        media = MediaProcessor.load(directory, config, settings)
        card_bytes = backend.check_host(layout.ranks_per_host).card_bytes
        plan = engine_plan(settings, config, backend, self._available * len(layout.hosts), card_bytes)
        worker = Worker.load(settings, config, backend, layout, group)
        available = available_bytes() // layout.ranks_per_host
        self._channel.send(Loaded(worker.affordable_blocks(settings, plan, available)))
        num_blocks = self._receive(Allocate).num_blocks
        spec = replace(worker.block_spec(settings), num_blocks=num_blocks)
        runner = worker.create_runner(spec, media)
        logger.info("rank %d is ready", join.rank)
        while True:
            self._work(runner, self._inbox.get())

    def _work(self, runner: ModelRunner, message: RankMessage) -> None:
        """Do what rank 0 does at the same time."""
        encoder = runner.encoder
        if isinstance(message, Step):
            runner.compute(message.batch, message.media)
        elif encoder is not None and isinstance(message, StartEncoding):
            encoder.start(message.item)
        elif encoder is not None and isinstance(message, EncodePiece):
            self._encode_piece(encoder)
        elif encoder is not None and isinstance(message, DropMedia):
            encoder.drop(message.digests)
        else:
            raise TypeError(f"rank 0 sent {type(message).__name__}, expected a piece of work")

    @staticmethod
    def _encode_piece(encoder: Encoder) -> None:
        """Encode; a medium that cannot be encoded fails on rank 0 too, which drops it and ends its requests."""
        try:
            encoder.advance()
        except Exception:
            logger.exception("a medium cannot be encoded")

    def _barrier(self) -> None:
        self._channel.send(BarrierArrival())
        self._receive(BarrierRelease)

    def _receive(self, kind: type[_M]) -> _M:
        message = self._inbox.get()
        if not isinstance(message, kind):
            raise TypeError(f"rank 0 sent {type(message).__name__}, expected {kind.__name__}")
        return message

    def _send_heartbeats(self) -> None:
        while True:
            self._channel.send(self._heartbeats.read())
            time.sleep(HEARTBEAT_S)


def _socket(options: argparse.Namespace) -> socket.socket:
    if options.socket_fd is not None:
        return socket.socket(fileno=options.socket_fd)
    config = ModelConfig.from_directory(model_directory(options.settings))
    return connect_to_rank_0(read_layout(read_settings(options.settings, config).parallel), options.index)


def _end(fault: Exception | None) -> None:
    """End the process without waiting for the main thread, which may be inside a sum that never ends."""
    logger.info("rank ends: %s", "rank 0 is gone" if fault is None else f"it cannot talk to rank 0: {fault!r}")
    logging.shutdown()
    os._exit(0)
