"""Processes that learn from different batches and sum their gradients: one thread each.

Two processes that meet once a step are faster than two threads that meet after every operation, by much so where
other programs run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ParamSpec

import torch
from torch import distributed, multiprocessing, nn

_Parameters = ParamSpec("_Parameters")


def spawn(
    processes: int,
    function: Callable[_Parameters, None],
    *arguments: _Parameters.args,
    **_options: _Parameters.kwargs,
) -> None:
    """Call ``function`` in several processes that can sum gradients; raise what one of them raises."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine
    with TemporaryDirectory() as directory:
        meeting = (Path(directory) / "meeting").as_uri()
        multiprocessing.spawn(_joined, (processes, meeting, function, arguments), processes)


def _joined(
    rank: int, processes: int, meeting: str, function: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    function(*arguments)
    distributed.destroy_process_group()


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(distributed.get_rank())


def sum_gradients(network: nn.Module, *figures: float) -> list[float]:
    """Replace all gradients by their sums over the processes; return the sums of the figures."""
    gradients = [each.grad for each in network.parameters()]
    flat = torch.cat([*(each.flatten() for each in gradients), torch.tensor(figures)])
    distributed.all_reduce(flat)
    parts = flat.split([*(each.numel() for each in gradients), len(figures)])
    for gradient, part in zip(gradients, parts, strict=False):
        gradient.copy_(part.view_as(gradient))
    sums: list[float] = parts[-1].tolist()
    return sums
