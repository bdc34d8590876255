"""The ranks of a model over ``paddle.distributed``: gloo between CPUs, BKCL between XPUs.

    sum of CPU arrays      every rank gets all addends and adds them in the order of the ranks, so the bits of a
                           row depend neither on the other rows nor on the way gloo would cut a buffer
    sum of XPU tensors     BKCL's all-reduce, in whatever order is fastest

A collective whose peer has died fails; one whose peer hangs waits, and somebody else must notice.
"""

from __future__ import annotations

import faulthandler
import os
import socket

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.communicator import Ranks, Rendezvous
from ernie_kernels.paddle.place import Tensor, paddle

Floats = NDArray[np.float32]
_BLOCK_VALUES = 1 << 20
"""Of a rank's addends, so many are exchanged at a time."""


def join_hosts(rendezvous: Rendezvous) -> Ranks[Floats]:
    """Join a group that exchanges NumPy arrays; returns when all ranks have come."""
    _initialize(rendezvous, "gloo")
    return _HostRanks(rendezvous)


def join_devices(rendezvous: Rendezvous, place: str) -> Ranks[Tensor]:
    """Join a group that exchanges Paddle tensors on ``place``; returns when all ranks have come."""
    _initialize(rendezvous, "gloo" if place == "cpu" else "bkcl")
    return _DeviceRanks(rendezvous)


class _HostRanks:
    """``Ranks`` for NumPy arrays."""

    def __init__(self, rendezvous: Rendezvous) -> None:
        self.rank = rendezvous.rank
        self.size = rendezvous.size
        self._meetings = rendezvous.meetings

    def sum(self, x: Floats) -> Floats:
        """Add the ranks' arrays in the order of the ranks, some rows at a time: all take much memory."""
        total = np.empty_like(x)
        rows = max(1, _BLOCK_VALUES // x.shape[1])
        for start in range(0, len(x), rows):
            first, *others = self._gather(x[start : start + rows])
            block = total[start : start + rows]
            block[:] = first
            for each in others:
                block += each
        return total

    def join(self, x: Floats) -> Floats:
        """Lay the ranks' arrays side by side."""
        return np.concatenate(list(self._gather(x)), axis=1)

    def _gather(self, x: Floats) -> Floats:
        """Return the arrays of all ranks: ``[size, *x.shape]``."""
        if x.size == 0:  # gloo sends no empty buffer
            return np.zeros((self.size, *x.shape), np.float32)
        mine = paddle.utils.dlpack.from_dlpack(np.ascontiguousarray(x))
        gathered = paddle.empty((self.size * x.shape[0], x.shape[1]), "float32")
        with self._meetings:
            paddle.distributed.stream.all_gather(gathered, mine)
        all_parts: Floats = np.from_dlpack(gathered)
        return all_parts.reshape(self.size, *x.shape)


class _DeviceRanks:
    """``Ranks`` for Paddle tensors."""

    def __init__(self, rendezvous: Rendezvous) -> None:
        self.rank = rendezvous.rank
        self.size = rendezvous.size
        self._meetings = rendezvous.meetings

    def sum(self, x: Tensor) -> Tensor:
        """All-reduce in place."""
        with self._meetings:
            paddle.distributed.all_reduce(x)
        return x

    def join(self, x: Tensor) -> Tensor:
        """Lay the ranks' tensors side by side."""
        parts: list[Tensor] = []
        with self._meetings:
            paddle.distributed.all_gather(parts, x)
        return paddle.concat(parts, axis=-1)


def _check_free(master: str) -> None:
    """Raise RuntimeError if the port of the store is taken, which Paddle answers by ending the process."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(master.rpartition(":")[2])))  # Paddle listens at all addresses
        except OSError as error:
            raise RuntimeError(
                f"the ranks cannot meet at {master}, a port that was free a moment ago ({error.strerror}); "
                "start again"
            ) from error


def _initialize(rendezvous: Rendezvous, backend: str) -> None:
    """Join Paddle's default group, whose rendezvous it reads from the environment."""
    with rendezvous.meetings:
        rendezvous.come()
    if rendezvous.rank == 0:
        _check_free(rendezvous.master)
    paddle.disable_signal_handler()  # else SIGTERM would write a stack and wait
    if faulthandler.is_enabled():  # its handlers are gone too
        faulthandler.disable()
        faulthandler.enable()
    own_endpoint = f"{rendezvous.address}:{6070 + rendezvous.rank}"  # named, never listened on
    os.environ.update(
        PADDLE_TRAINER_ID=str(rendezvous.rank),
        PADDLE_TRAINERS_NUM=str(rendezvous.size),
        PADDLE_MASTER=rendezvous.master,
        PADDLE_TRAINER_ENDPOINTS=rendezvous.master,
        PADDLE_CURRENT_ENDPOINT=own_endpoint,
        PADDLE_DISTRI_BACKEND=backend,
        FLAGS_selected_xpus=str(rendezvous.card),
    )
    if rendezvous.master.startswith("127."):  # all ranks are on this machine, whatever its name stands for
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with rendezvous.meetings:
        paddle.distributed.init_parallel_env()
