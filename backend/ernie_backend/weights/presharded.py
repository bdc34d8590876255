"""A checkpoint that was cut for tensor parallelism: directories ``rank0`` to ``rankN-1`` beside config.json.

Read by a single rank, the parts are joined tensor by tensor. This module must not know formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, KeysView, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ernie_backend.errors import StartError
from ernie_backend.model_config import ModelConfig
from ernie_backend.weights.checkpoint import Checkpoint
from ernie_backend.weights.names import recipes_for
from ernie_backend.weights.offline import stored_weights
from ernie_backend.weights.placement import WeightFormat
from ernie_backend.weights.rank_parts import TensorParts, tensor_parts
from ernie_backend.weights.roles import Role

_RANK = re.compile(r"rank(\d+)")


def rank_directories(directory: Path) -> list[Path]:
    """Return the directories of the ranks, in order; none if the checkpoint is whole.

    Raises:
        StartError: one is missing between the first and the last.
    """
    found = {int(match[1]): path for path in directory.glob("rank*") if (match := _RANK.fullmatch(path.name))}
    for rank in range(max(found, default=-1) + 1):
        if rank not in found:
            raise StartError(f"{directory / f'rank{rank}'} is missing; other ranks are there: copy it again")
    return [found[rank] for rank in range(len(found))]


def check_rank_count(directory: Path, ranks: int) -> None:
    """Check that ``ranks`` ranks can read the checkpoint: a whole one, one cut for as many, or a single rank.

    Raises:
        StartError: they cannot.
    """
    count = len(rank_directories(directory))
    if count and ranks not in (1, count):
        raise StartError(
            f"{directory} was cut for {count} ranks (rank0 to rank{count - 1}) and tensor_parallel_size is "
            f"{ranks}; give {count}, or 1, which joins the parts"
        )


def open_tensors(
    directory: Path, config: ModelConfig, format_of: Callable[[Role], WeightFormat]
) -> Checkpoint | PreshardedCheckpoint:
    """Open the files of a model directory, whole or cut for ranks; ``format_of`` is how weights are kept.

    Raises:
        StartError: there are no weights, or a file is missing or damaged.
    """
    directories = rank_directories(directory)
    if not directories:
        return Checkpoint.open(directory)
    ranks: list[Checkpoint] = []
    try:
        for each in directories:
            ranks.append(Checkpoint.open(each))  # noqa: PERF401 - those that are open are closed on an error
        names = ranks[0].names
        recipes = recipes_for(names, config, str(directories[0]))
        stored = stored_weights(recipes, format_of, names, is_expected=config.stored_quantization is not None)
        return PreshardedCheckpoint(directory, ranks, tensor_parts(recipes, stored, config, len(ranks)))
    except StartError:
        for rank in ranks:
            rank.close()
        raise


class PreshardedCheckpoint:
    """The joined tensors of all ranks; has the methods of ``Checkpoint``.

    Args:
        directory: that of the ranks' directories.
        ranks: their checkpoints, in order.
        parts: how the tensors are shared out among them, by name.
    """

    def __init__(self, directory: Path, ranks: list[Checkpoint], parts: Mapping[str, TensorParts]) -> None:
        self.directory = directory
        self._ranks = ranks
        self._parts = parts
        for rank in ranks[1:]:
            odd = ranks[0].names ^ rank.names
            if odd:
                raise StartError(f"{directory}: tensor {min(odd)} is not in the directory of every rank")

    @property
    def names(self) -> KeysView[str]:
        """Names of all tensors."""
        return self._ranks[0].names

    @property
    def paths(self) -> list[Path]:
        """The files of all ranks."""
        return [path for rank in self._ranks for path in rank.paths]

    def file_of(self, name: str) -> Path:
        """Return the first rank's file that holds a part of a tensor."""
        return self._ranks[0].file_of(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a joined tensor's shape; of parts that do not fit, that of the first."""
        local = self._ranks[0].shape(name)
        parts = self._parts.get(name)
        if parts is None:
            return local
        fit = all(rank.shape(name) == parts.part_shape(index) for index, rank in enumerate(self._ranks))
        return parts.shape if fit else local

    def tensor(self, name: str) -> NDArray[np.generic]:
        """Return a joined tensor; bfloat16 as uint16 bits.

        Raises:
            StartError: a tensor that every rank has whole is not the same on all.
        """
        tensors = [rank.tensor(name) for rank in self._ranks]
        if name in self._parts:
            return self._parts[name].joined(tensors)
        for rank, tensor in enumerate(tensors[1:], 1):
            if not np.array_equal(tensors[0], tensor):
                raise StartError(
                    f"{self.directory}: rank0 and rank{rank} differ in tensor {name}, so their parts cannot be "
                    f"joined; give tensor_parallel_size {len(self._ranks)}"
                )
        return tensors[0]

    def close(self) -> None:
        """Close all files."""
        for rank in self._ranks:
            rank.close()
