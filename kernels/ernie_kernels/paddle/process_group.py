"""Communicators over ``paddle.distributed``: gloo between CPUs, BKCL between XPUs.

    all_reduce of arrays     every rank receives all addends and adds them in rank order, so the bits of a row
                             depend neither on the other rows nor on how gloo would split a buffer
    all_reduce of tensors    BKCL's own, in the order that it finds fastest

A collective whose peer has died fails. One whose peer hangs waits: the caller must detect that.
"""

from __future__ import annotations

import faulthandler
import os
import socket

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.communicator import Communicator, ProcessGroupConfig
from ernie_kernels.paddle.place import Tensor, paddle

Floats = NDArray[np.float32]
_BLOCK_VALUES = 1 << 20
"""Values of each rank that one exchange carries."""


def join_host_group(config: ProcessGroupConfig) -> Communicator[Floats]:
    """Join a group that exchanges NumPy arrays; returns when all ranks have joined."""
    _join(config, "gloo")
    return _HostCommunicator(config)


def join_device_group(config: ProcessGroupConfig, place: str) -> Communicator[Tensor]:
    """Join a group that exchanges Paddle tensors on ``place``; returns when all ranks have joined."""
    _join(config, "gloo" if place == "cpu" else "bkcl")
    return _DeviceCommunicator(config)


class _HostCommunicator:
    """``Communicator`` for NumPy arrays."""

    def __init__(self, config: ProcessGroupConfig) -> None:
        self.rank = config.rank
        self.size = config.size
        self._collectives = config.collectives

    def all_reduce(self, x: Floats) -> Floats:
        """Add the ranks' arrays in rank order, a block of rows at a time to bound the memory."""
        total = np.empty_like(x)
        rows = max(1, _BLOCK_VALUES // x.shape[1])
        for start in range(0, len(x), rows):
            first, *others = self._gather(x[start : start + rows])
            block = total[start : start + rows]
            block[:] = first
            for each in others:
                block += each
        return total

    def all_gather(self, x: Floats) -> Floats:
        """Concatenate the ranks' arrays."""
        return np.concatenate(list(self._gather(x)), axis=1)

    def _gather(self, x: Floats) -> Floats:
        """Return the arrays of all ranks: ``[size, *x.shape]``."""
        if x.size == 0:  # gloo does not send an empty buffer
            return np.zeros((self.size, *x.shape), np.float32)
        own = paddle.utils.dlpack.from_dlpack(np.ascontiguousarray(x))
        gathered = paddle.empty((self.size * x.shape[0], x.shape[1]), "float32")
        with self._collectives:
            paddle.distributed.stream.all_gather(gathered, own)
        all_parts: Floats = np.from_dlpack(gathered)
        return all_parts.reshape(self.size, *x.shape)


class _DeviceCommunicator:
    """``Communicator`` for Paddle tensors."""

    def __init__(self, config: ProcessGroupConfig) -> None:
        self.rank = config.rank
        self.size = config.size
        self._collectives = config.collectives

    def all_reduce(self, x: Tensor) -> Tensor:
        """All-reduce in place."""
        with self._collectives:
            paddle.distributed.all_reduce(x)
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """Concatenate the ranks' tensors."""
        parts: list[Tensor] = []
        with self._collectives:
            paddle.distributed.all_gather(parts, x)
        return paddle.concat(parts, axis=-1)


def _check_free(master: str) -> None:
    """Raise RuntimeError if the store's port is taken: Paddle itself would end the process."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(master.rpartition(":")[2])))  # as Paddle does, at all addresses
        except OSError as error:
            raise RuntimeError(
                f"the ranks cannot meet at {master}, a port that was free a moment ago ({error.strerror}); "
                "start again"
            ) from error


def _join(config: ProcessGroupConfig, backend: str) -> None:
    """Join Paddle's default group, which Paddle configures from the environment."""
    with config.collectives:
        config.barrier()
    if config.rank == 0:
        _check_free(config.master)
    paddle.disable_signal_handler()  # it would answer SIGTERM with a stack and wait
    if faulthandler.is_enabled():  # Paddle has removed its handlers too
        faulthandler.disable()
        faulthandler.enable()
    own_endpoint = f"{config.address}:{6070 + config.rank}"  # a name only; nothing listens there
    os.environ.update(
        PADDLE_TRAINER_ID=str(config.rank),
        PADDLE_TRAINERS_NUM=str(config.size),
        PADDLE_MASTER=config.master,
        PADDLE_TRAINER_ENDPOINTS=config.master,
        PADDLE_CURRENT_ENDPOINT=own_endpoint,
        PADDLE_DISTRI_BACKEND=backend,
        FLAGS_selected_xpus=str(config.card),
    )
    if config.master.startswith("127."):  # all ranks are on this machine, whatever its host name resolves to
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with config.collectives:
        paddle.distributed.init_parallel_env()
