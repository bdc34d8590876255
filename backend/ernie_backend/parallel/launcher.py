"""Brings a group together: starts the ranks of this machine, meets those of the others, tells each its place.

This module must not know what ranks do afterwards.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from collections.abc import Mapping

from ernie_backend.devices.backend import find_backend
from ernie_backend.errors import StartError
from ernie_backend.parallel.group import Group, GroupWatch
from ernie_backend.parallel.layout import Layout
from ernie_backend.parallel.local_rank import LocalRank
from ernie_backend.parallel.member import Member
from ernie_backend.parallel.messages import Join
from ernie_backend.parallel.rank_worker import config_digest
from ernie_backend.parallel.rendezvous import meet_ranks
from ernie_backend.settings.groups import EngineSettings

logger = logging.getLogger(__name__)

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def gather_group(
    settings: EngineSettings, parameters: Mapping[str, str], layout: Layout, watch: GroupWatch
) -> tuple[Group, str]:
    """Return the group that rank 0, this process, leads, and ``ProcessGroupConfig.master``.

    Every rank has been told to join.

    Args:
        settings: the engine's.
        parameters: what they were read from, for the other ranks.
        layout: which ranks are where.
        watch: is told how the ranks fare.

    Raises:
        StartError: a rank cannot be started, ends while others are waited for, or does not come.
    """
    threads = layout.threads_per_rank(settings.threads)
    started = {rank: _start(rank, threads) for rank in range(1, layout.ranks_per_host)}

    def while_waiting() -> None:
        watch.moved()
        for rank, process in started.items():
            _check_lives(rank, process)

    members = {rank: Member(_name(rank, process), process.socket, process) for rank, process in started.items()}
    for rank, sock in meet_ranks(layout, while_waiting).items():
        members[rank] = Member(f"rank {rank} of {layout.hosts[rank // layout.ranks_per_host]}", sock)
    digest, kernels = config_digest(settings.model), find_backend(settings.device)[0].kernels
    master = _free_master(layout)
    group = Group([members[rank] for rank in sorted(members)], watch)
    for rank, member in members.items():
        member.send(Join(rank, master, dict(parameters), digest, kernels))
    return group, master


def _free_master(layout: Layout) -> str:
    """Return ``address:port`` of a port that is free at all addresses of this machine, where Paddle listens."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{layout.hosts[0]}:{probe.getsockname()[1]}"


def _start(rank: int, threads: int) -> LocalRank:
    try:
        process = LocalRank({**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))})
    except OSError as error:
        raise StartError(f"rank {rank} cannot be started: {error.strerror}") from error
    logger.info("rank %d is process %d", rank, process.pid)
    return process


def _name(rank: int, process: LocalRank) -> str:
    return f"rank {rank} (process {process.pid})"


def _check_lives(rank: int, process: LocalRank) -> None:
    """Raise StartError if a rank has closed its socket, whatever it had sent before."""
    poll = select.poll()
    poll.register(process.socket, select.POLLRDHUP)
    if poll.poll(0):
        end = process.how_it_ended()
        raise StartError(f"{_name(rank, process)} {end.words}", end.signal)
