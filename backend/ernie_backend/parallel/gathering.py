"""Brings a group together: starts the ranks of this machine, meets those of the others, tells each its place.

This module must not know what ranks do afterwards.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

from ernie_backend.errors import StartError
from ernie_backend.parallel.following import config_digest
from ernie_backend.parallel.group import Group, GroupWatch
from ernie_backend.parallel.layout import Layout
from ernie_backend.parallel.local_rank import LocalRank
from ernie_backend.parallel.meeting import meet_ranks
from ernie_backend.parallel.member import Member
from ernie_backend.parallel.messages import Join
from ernie_backend.part import Seat
from ernie_backend.settings import EngineSettings

logger = logging.getLogger(__name__)

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def gather_group(
    settings: EngineSettings,
    parameters: Mapping[str, str],
    layout: Layout,
    seat: Seat,
    watch: GroupWatch,
) -> Group:
    """Return the group that rank 0, this process, leads; every rank has been told to join.

    Args:
        settings: the engine's.
        parameters: what they were read from, for the other ranks.
        layout: which ranks are where.
        seat: rank 0's.
        watch: is told how the ranks fare.

    Raises:
        StartError: a rank cannot be started, or does not come.
    """
    members = {rank: _start(rank, seat.threads) for rank in range(1, layout.ranks_per_host)}
    for rank, sock in meet_ranks(layout, watch.moved).items():
        members[rank] = Member(f"rank {rank} of {layout.hosts[rank // layout.ranks_per_host]}", sock)
    digest = config_digest(settings.model)
    master = seat.rendezvous.master if seat.rendezvous else ""
    group = Group([members[rank] for rank in sorted(members)], watch)
    for rank, member in members.items():
        member.send(Join(rank, master, dict(parameters), digest))
    return group


def free_master(layout: Layout) -> str:
    """Return ``address:port`` of a free port of this machine."""
    with socket.socket() as probe:
        probe.bind((layout.hosts[0], 0))
        return f"{layout.hosts[0]}:{probe.getsockname()[1]}"


def _start(rank: int, threads: int) -> Member:
    try:
        process = LocalRank(rank, {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))})
    except OSError as error:
        raise StartError(f"rank {rank} cannot be started: {error.strerror}") from error
    logger.info("rank %d is process %d", rank, process.pid)
    return Member(f"rank {rank} (process {process.pid})", process.socket, process)
