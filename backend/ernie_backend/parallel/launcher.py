"""Launches the group: starts the ranks of this machine, accepts those of the others, has all join."""

from __future__ import annotations

import logging
import os
import select
import socket
from collections.abc import Mapping

from ernie_backend.devices.backend import find_backend
from ernie_backend.errors import StartError
from ernie_backend.parallel.group import GroupObserver, RankGroup
from ernie_backend.parallel.layout import Layout
from ernie_backend.parallel.liveness import HeartbeatSource
from ernie_backend.parallel.messages import Join
from ernie_backend.parallel.rank_channel import RankChannel, RankProcess
from ernie_backend.parallel.rank_worker import config_digest
from ernie_backend.parallel.rendezvous import accept_ranks
from ernie_backend.settings.engine_settings import EngineSettings
from ernie_kernels.communicator import ProcessGroupConfig

logger = logging.getLogger(__name__)

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def launch_group(
    settings: EngineSettings, parameters: Mapping[str, str], layout: Layout, observer: GroupObserver
) -> tuple[RankGroup, ProcessGroupConfig]:
    """Launch the group of rank 0, this process; its heartbeats are those of the calling thread.

    Args:
        settings: the engine's.
        parameters: those that the settings were read from, for the other ranks.
        layout: which ranks are on which machine.
        observer: receives the ranks' progress and failure.

    Returns:
        The group, whose ranks have received ``Join``, and how rank 0 joins them.

    Raises:
        StartError: a rank cannot be started, ends while others are waited for, or does not connect.
    """
    threads = layout.threads_per_rank(settings.threads)
    started = {rank: _start(rank, threads) for rank in range(1, layout.ranks_per_host)}

    def on_wait() -> None:
        observer.on_progress()
        for rank, process in started.items():
            _check_alive(rank, process)

    channels = {
        rank: RankChannel(_name(rank, process), process.socket, process) for rank, process in started.items()
    }
    for rank, sock in accept_ranks(layout, on_wait).items():
        channels[rank] = RankChannel(f"rank {rank} of {layout.hosts[rank // layout.ranks_per_host]}", sock)
    digest, kernels = config_digest(settings.model), find_backend(settings.device)[0].kernels
    # What auto is on this machine, so that ranks on other processors round alike.
    shared = {**parameters, "activation_dtype": settings.loading.activation_dtype.value}
    master = _free_master(layout)
    heartbeats = HeartbeatSource()
    group = RankGroup([channels[rank] for rank in sorted(channels)], observer, heartbeats)
    for rank, channel in channels.items():
        channel.send(Join(rank, master, shared, digest, kernels))
    return group, layout.process_group(0, master, heartbeats.collectives, group.barrier)


def _free_master(layout: Layout) -> str:
    """Return ``address:port`` of a port that is free at all addresses of this machine, where Paddle listens."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{layout.hosts[0]}:{probe.getsockname()[1]}"


def _start(rank: int, threads: int) -> RankProcess:
    try:
        process = RankProcess({**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))})
    except OSError as error:
        raise StartError(f"rank {rank} cannot be started: {error.strerror}") from error
    logger.info("rank %d is process %d", rank, process.pid)
    return process


def _name(rank: int, process: RankProcess) -> str:
    return f"rank {rank} (process {process.pid})"


def _check_alive(rank: int, process: RankProcess) -> None:
    """Raise StartError if a rank has closed its socket; messages that it sent before may be unread."""
    poll = select.poll()
    poll.register(process.socket, select.POLLRDHUP)
    if poll.poll(0):
        end = process.how_it_ended()
        raise StartError(f"{_name(rank, process)} {end.words}", end.signal)
