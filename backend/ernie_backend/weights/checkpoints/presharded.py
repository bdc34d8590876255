"""A checkpoint that was cut for tensor parallelism: directories ``rank0`` to ``rankN-1`` next to config.json.

    whole weight [N, K]  --part_of-->  rows or columns of a rank  --tensor_parts-->  indices of its tensors

One of N ranks reads only its own directory, except for the weights that it quantizes before it cuts them. A
single rank, or one that has whole experts, joins the parts tensor by tensor. Both look like a whole checkpoint
to the loader, which takes the rank's part only: the zeros in place of other ranks' parts are never used.
``sharding`` says which outputs and inputs of a weight a rank has; this module finds them in its tensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.errors import StartError
from ernie_backend.weights.checkpoints.files import Checkpoint
from ernie_backend.weights.checkpoints.prequantized import (
    StoredWeight,
    cache_scale_specs,
    group_range,
    stored_weights,
)
from ernie_backend.weights.checkpoints.safetensors_reader import type_name
from ernie_backend.weights.precision import SCALED_BY_ROW, Precision
from ernie_backend.weights.recipes import CheckpointTensor, Recipe, Recipes, recipes_for
from ernie_backend.weights.roles import WeightKey
from ernie_backend.weights.sharding import Shard, kv_heads_of, part_of

_RANK = re.compile(r"rank(\d+)")

Tensor = NDArray[np.generic]
Index = slice | NDArray[np.intp]


@dataclass(frozen=True)
class TensorParts:
    """How a tensor is cut.

    Attributes:
        shape: of the whole tensor.
        axis: the one that is cut.
        indices: each rank's part of this axis, in order of rank.
    """

    shape: tuple[int, ...]
    axis: int
    indices: tuple[Index, ...]

    def part_shape(self, rank: int) -> tuple[int, ...]:
        """Return the shape of the part of ``rank``."""
        index = self.indices[rank]
        length = index.stop - index.start if isinstance(index, slice) else len(index)
        return (*self.shape[: self.axis], length, *self.shape[self.axis + 1 :])

    def part(self, whole: Tensor, rank: int) -> Tensor:
        """Return the part of ``rank``."""
        return whole[self._place(rank)]

    def joined(self, parts: Mapping[int, Tensor]) -> Tensor:
        """Return the tensor that the parts make up, zeros where a rank is absent.

        Nothing is written there, so memory becomes resident only for the parts that are present.
        """
        whole = np.zeros(self.shape, next(iter(parts.values())).dtype)
        for rank, part in parts.items():
            whole[self._place(rank)] = part
        return whole

    def _place(self, rank: int) -> tuple[Index, ...]:
        return (*(slice(None),) * self.axis, self.indices[rank])


def tensor_parts(
    recipes: Recipes, stored: Mapping[WeightKey, StoredWeight], config: ModelConfig, ranks: int
) -> dict[str, TensorParts]:
    """Return how the tensors that are not whole on every rank are cut, by name.

    Args:
        recipes: the weights of the Paddle layout.
        stored: those that the checkpoint holds quantized.
        config: the model's sizes; ``check_split`` has passed.
        ranks: number of parts.
    """
    cut = {}
    for key, recipe in recipes.items():
        if key.role.is_vector:
            continue
        outputs, inputs = recipe.shape
        parts = [part_of(key.role, (outputs, inputs), config, Shard(rank, ranks)) for rank in range(ranks)]
        # A weight is cut along its outputs or its inputs, never both; scales of outputs follow the outputs.
        is_cut = parts[0].shape[0] < outputs, parts[0].shape[1] < inputs
        for spec, outputs_axis, inputs_axis in _axes(recipe, stored.get(key)):
            if is_cut[0]:
                rows = tuple(_index(part.rows) for part in parts)
                cut[spec.name] = TensorParts(spec.shape, outputs_axis, rows)
            elif is_cut[1] and inputs_axis is not None:
                columns = tuple(_index([_along(spec, part.columns, inputs, inputs_axis)]) for part in parts)
                cut[spec.name] = TensorParts(spec.shape, inputs_axis, columns)
    for layer in range(config.num_layers):
        heads = [kv_heads_of(config, Shard(rank, ranks)) for rank in range(ranks)]
        for spec in cache_scale_specs(config, layer) if ranks > 1 else ():
            channels = [range(each.start * config.head_dim, each.stop * config.head_dim) for each in heads]
            cut[spec.name] = TensorParts(spec.shape, 0, tuple(_index([each]) for each in channels))
    return cut


def needed_whole(
    recipes: Recipes,
    stored: Mapping[WeightKey, StoredWeight],
    precision: Precision,
    config: ModelConfig,
    shard: Shard,
) -> set[str]:
    """Return the tensors of which a rank reads the parts of all ranks.

    These are the weights that it quantizes and of which it has some columns: the scale of an output covers all
    its inputs, so that N ranks compute with the same numbers as one.
    """
    whole: set[str] = set()
    for key, recipe in recipes.items():
        if key.role.is_vector or key in stored or precision.format_of(key.role) not in SCALED_BY_ROW:
            continue
        outputs, inputs = recipe.shape
        if part_of(key.role, (outputs, inputs), config, shard).shape[1] < inputs:
            whole.update(tensor.name for tensor in recipe.tensors)
    return whole


def _axes(recipe: Recipe, stored: StoredWeight | None) -> Iterator[tuple[CheckpointTensor, int, int | None]]:
    """Yield the tensors of a weight, with the axes of its outputs and of its inputs."""
    if stored is None:
        outputs_axis = 1 if recipe.is_transposed else 0
        yield recipe.tensors[0], outputs_axis, 1 - outputs_axis
    else:
        yield stored.codes, 1, 0
        yield (stored.scales, 0, None) if len(stored.scales.shape) == 1 else (stored.scales, 1, 0)


def _along(spec: CheckpointTensor, columns: range, inputs: int, axis: int) -> range:
    """Return where some ``columns`` of a matrix are in a tensor: numbers, bytes of two codes, or groups."""
    if 2 * spec.shape[axis] < inputs:
        return group_range(columns, inputs, spec.name)
    packed = inputs // spec.shape[axis]
    return range(columns.start // packed, columns.stop // packed)


def _index(ranges: Sequence[range]) -> Index:
    """Return the index of ranges, concatenated."""
    if len(ranges) == 1:
        return slice(ranges[0].start, ranges[0].stop)
    return np.concatenate([np.arange(each.start, each.stop, dtype=np.intp) for each in ranges])


def rank_directories(directory: Path) -> list[Path]:
    """Return the directories of the ranks, in order; none if the checkpoint is whole.

    Raises:
        StartError: one is missing between the first and the last.
    """
    by_rank = {int(match[1]): path for path in directory.glob("rank*") if (match := _RANK.fullmatch(path.name))}
    for rank in range(max(by_rank, default=-1) + 1):
        if rank not in by_rank:
            raise StartError(f"{directory / f'rank{rank}'} is missing; other ranks are there: copy it again")
    return [by_rank[rank] for rank in range(len(by_rank))]


def open_checkpoint(
    directory: Path, config: ModelConfig, precision: Precision, shard: Shard
) -> Checkpoint | PreshardedCheckpoint:
    """Open what rank ``shard`` needs of a model directory, whole or cut for ranks.

    Args:
        directory: the model directory.
        config: the model's sizes.
        precision: the formats of the weights in memory.
        shard: the rank.

    Raises:
        StartError: weights are missing or damaged, or the checkpoint was cut for another number of ranks.
    """
    directories = rank_directories(directory)
    count = len(directories)
    if not directories:
        return Checkpoint.open(directory)
    if shard.size not in (1, count):
        raise StartError(
            f"{directory} was cut for {count} ranks (rank0 to rank{count - 1}) and tensor_parallel_size is "
            f"{shard.size}; give {count}, or 1, which joins the parts"
        )
    reads_one = shard.size == count and not shard.is_expert_parallel
    ranks: dict[int, Checkpoint] = {}
    try:
        ranks[shard.rank] = Checkpoint.open(directories[shard.rank])
        names = ranks[shard.rank].names
        recipes = recipes_for(names, config, str(directories[shard.rank]))
        stored = stored_weights(recipes, precision, names, is_expected=config.quantization_config is not None)
        whole = needed_whole(recipes, stored, precision, config, shard) if reads_one else names
        for rank in set(range(count)) - {shard.rank} if whole else ():
            ranks[rank] = Checkpoint.open(directories[rank])
        parts = tensor_parts(recipes, stored, config, count)
        return PreshardedCheckpoint(directory, ranks, parts, shard.rank, whole)
    except StartError:
        for checkpoint in ranks.values():
            checkpoint.close()
        raise


class PreshardedCheckpoint:
    """Whole tensors, of which one rank's part is filled, or all; has the methods of ``Checkpoint``.

    Args:
        directory: that of the ranks' directories.
        ranks: the opened checkpoints by rank: all, or ``rank`` alone.
        parts: how the tensors are cut, by name.
        rank: the one whose part of every tensor is filled.
        whole: the tensors that are filled with the parts of all ranks.

    Raises:
        StartError: a tensor is not in every one of the directories.
    """

    def __init__(
        self,
        directory: Path,
        ranks: Mapping[int, Checkpoint],
        parts: Mapping[str, TensorParts],
        rank: int,
        whole: Collection[str],
    ) -> None:
        self.directory = directory
        self._ranks = dict(sorted(ranks.items()))
        self._parts = parts
        self._whole = whole
        self._local = {rank: ranks[rank]}
        self._first = ranks[rank]
        for checkpoint in ranks.values():
            odd = self._first.names ^ checkpoint.names
            if odd:
                raise StartError(f"{directory}: tensor {min(odd)} is not in the directory of every rank")

    @property
    def names(self) -> KeysView[str]:
        """Names of all tensors."""
        return self._first.names

    def file_of(self, name: str) -> Path:
        """Return the rank's own file that holds its part of a tensor."""
        return self._first.file_of(name)

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise StartError unless each opened rank's part is of a whole tensor with ``shape``."""
        parts = self._parts.get(name)
        for rank, checkpoint in self._ranks.items():
            if parts is None:
                checkpoint.check_shape(name, shape)
                continue
            stored, expected = checkpoint.shape(name), parts.part_shape(rank)
            if stored != expected:
                raise StartError(
                    f"{checkpoint.file_of(name)}: tensor {name} has shape {list(stored)}; config.json requires "
                    f"{list(shape)}, of which one of {len(parts.indices)} ranks has {list(expected)}: is the "
                    "directory of a rank missing?"
                )

    def tensor(self, name: str) -> NDArray[np.generic]:
        """Return a whole tensor, zeros where other ranks' parts are not read; bfloat16 as uint16 bits.

        Raises:
            StartError: a tensor that every rank has whole is not the same on all, or its parts are of different
                types.
        """
        ranks = self._ranks if name in self._whole else self._local
        tensors = {rank: checkpoint.tensor(name) for rank, checkpoint in ranks.items()}
        if name in self._parts:
            self._check_types(name, tensors)
            return self._parts[name].joined(tensors)
        first = next(iter(tensors.values()))
        for rank, tensor in tensors.items():
            if not np.array_equal(first, tensor):
                raise StartError(
                    f"{self.directory}: rank0 and rank{rank} differ in tensor {name}, so their parts cannot be "
                    f"joined; give tensor_parallel_size {len(self._ranks)}"
                )
        return first

    def _check_types(self, name: str, tensors: Mapping[int, NDArray[np.generic]]) -> None:
        names = {rank: type_name(tensor.dtype) for rank, tensor in tensors.items()}
        first = next(iter(names))
        for rank, named in names.items():
            if named != names[first]:
                raise StartError(
                    f"{self.directory}: tensor {name} is {names[first]} in rank{first} and {named} in "
                    f"rank{rank}; copy the checkpoint again"
                )

    def forget(self) -> None:
        """Release the pages that were read."""
        for checkpoint in self._ranks.values():
            checkpoint.forget()

    def close(self) -> None:
        """Close all files."""
        for checkpoint in self._ranks.values():
            checkpoint.close()
