"""Which part of each weight belongs to a rank of a group of n.

    QKV                    rows     1/n of the queries, of the keys and of the values: whole heads
    GATE_UP                rows     1/n of the gate rows and of the up rows
    OUTPUT, DOWN           columns  those that meet what the rank's own QKV or GATE_UP rows make
    EMBEDDING, HEAD        rows     1/n of the vocabulary
    norms, routers         whole

So a rank multiplies by its rows, then by its columns, and the sum over the ranks is the whole product. Experts
are cut like any MLP; with expert parallelism a routed expert is whole, and a rank has 1/n of them. If n then
does not divide the heads or a width, attention, dense MLPs and shared experts are whole on every rank. Which n
there can be says ``split``. This module must not know files, tensor names or formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ernie_backend.model_config import ModelConfig
from ernie_backend.model_shape import text_shape
from ernie_backend.weights.roles import Role
from ernie_backend.weights.split import check_sizes, is_dense_whole

_BY_HALVES = frozenset({Role.GATE_UP, Role.EXPERT_GATE_UP, Role.SHARED_GATE_UP})
_BY_ROWS = frozenset({Role.EMBEDDING, Role.HEAD})
_BY_COLUMNS = frozenset({Role.OUTPUT, Role.DOWN, Role.EXPERT_DOWN, Role.SHARED_DOWN})
T = TypeVar("T", bound=np.generic)
_ROUTED = frozenset({Role.EXPERT_GATE_UP, Role.EXPERT_DOWN})


@dataclass(frozen=True)
class Shard:
    """Rank ``rank`` of ``size``; the default is the only one.

    Attributes:
        rank: 0 to ``size`` - 1.
        size: ranks of the group.
        is_expert_parallel: whether routed experts are spread over the ranks instead of cut.
        is_dense_whole: whether attention, dense MLPs and shared experts are whole on every rank.
    """

    rank: int = 0
    size: int = 1
    is_expert_parallel: bool = False
    is_dense_whole: bool = False

    @property
    def dense(self) -> Shard:
        """The part of attention, dense MLPs and shared experts."""
        return Shard() if self.is_dense_whole else self

    @property
    def has_shared_experts(self) -> bool:
        """Whether the rank adds the shared experts, or its part of them, to what its routed ones make."""
        return not self.is_dense_whole or self.rank == 0

    @property
    def name(self) -> str:
        """A name for files; empty for the only rank."""
        if self.size == 1:
            return ""
        return f"rank{self.rank}of{self.size}{'-experts' if self.is_expert_parallel else ''}"


@dataclass(frozen=True)
class Part:
    """What a rank has of an ``[N, K]`` matrix.

    Attributes:
        rows: ranges of its outputs; the part holds them one after another.
        columns: the range of its inputs.
    """

    rows: tuple[range, ...]
    columns: range

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of the part."""
        return sum(len(rows) for rows in self.rows), len(self.columns)

    def cut(self, tensors: Sequence[NDArray[T]]) -> list[NDArray[T]]:
        """Return views of the part's pieces, in order, of tensors that one after another make up the matrix."""
        columns = slice(self.columns.start, self.columns.stop)
        heights = [len(tensor) for tensor in tensors]
        return [tensors[index][rows.start : rows.stop, columns] for index, rows in self.pieces(heights)]

    def pieces(self, heights: Sequence[int]) -> Iterator[tuple[int, range]]:
        """Yield, in the part's order, which rows of which tensor it has; ``heights`` are the tensors' rows."""
        for wanted in self.rows:
            top = 0
            for index, height in enumerate(heights):
                start, stop = max(wanted.start, top), min(wanted.stop, top + height)
                if start < stop:
                    yield index, range(start - top, stop - top)
                top += height


def shard_of(config: ModelConfig, rank: int, size: int, *, is_expert_parallel: bool) -> Shard:
    """Return the shard of a rank; expert parallelism means nothing to a model without experts."""
    if not is_expert_parallel or config.moe is None:
        return Shard(rank, size)
    is_whole = is_dense_whole(text_shape(config), size, is_expert_parallel=True)
    return Shard(rank, size, is_expert_parallel=True, is_dense_whole=is_whole)


def part_of(role: Role, shape: tuple[int, int], config: ModelConfig, shard: Shard) -> Part:
    """Return the rank's part of the matrix of ``role`` with ``shape`` [N, K]; ``check_split`` was passed."""
    outputs, inputs = shape
    if role in _BY_ROWS:
        return Part(_rows((outputs,), shard), range(inputs))
    is_whole = shard.is_expert_parallel if role in _ROUTED else shard.is_dense_whole
    if is_whole or shard.size == 1:
        return Part((range(outputs),), range(inputs))
    if role is Role.QKV:
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        return Part(_rows((queries, keys, keys), shard), range(inputs))
    if role in _BY_HALVES:
        return Part(_rows((outputs // 2, outputs // 2), shard), range(inputs))
    if role in _BY_COLUMNS:
        return Part((range(outputs),), _share(inputs, shard))
    return Part((range(outputs),), range(inputs))


def experts_of(num_experts: int, shard: Shard) -> range:
    """Return the routed experts of which the rank has a part, or the whole."""
    return _share(num_experts, shard) if shard.is_expert_parallel else range(num_experts)


def kv_heads_of(config: ModelConfig, shard: Shard) -> range:
    """Return the key and value heads that the rank has."""
    return _share(config.num_kv_heads, shard.dense)


def vocabulary_of(vocab_size: int, shard: Shard) -> range:
    """Return the token ids whose rows of the embedding and of the head the rank has."""
    return _share(vocab_size, shard)


def check_split(config: ModelConfig, shard: Shard, expert_block: int = 1) -> None:
    """Check that a group of ``shard.size`` ranks can share a model; see ``split.check_sizes``."""
    check_sizes(text_shape(config), shard.size, is_expert_parallel=shard.is_expert_parallel, block=expert_block)


def _rows(groups: Sequence[int], shard: Shard) -> tuple[range, ...]:
    """Return the rank's rows of each of some groups of rows that follow one another."""
    rows, top = [], 0
    for height in groups:
        share = _share(height, shard)
        rows.append(range(top + share.start, top + share.stop))
        top += height
    return tuple(rows)


def _share(length: int, shard: Shard) -> range:
    share = length // shard.size
    return range(shard.rank * share, (shard.rank + 1) * share)
