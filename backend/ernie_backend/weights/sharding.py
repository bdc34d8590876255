"""Which part of each weight belongs to a rank of a group of n, and which n there can be.

    QKV                    rows     1/n of the queries, of the keys and of the values: whole heads
    GATE_UP                rows     1/n of the gate rows and of the up rows
    OUTPUT, DOWN           columns  those that meet what the rank's own QKV or GATE_UP rows make
    EMBEDDING, HEAD        rows     1/n of the vocabulary
    norms, routers         whole

So a rank multiplies by its rows, then by its columns, and the sum over the ranks is the whole product. Experts
are cut like any MLP; with expert parallelism a routed expert is whole, and a rank has 1/n of them. If n then
does not divide the heads or a width, attention, dense MLPs and shared experts are whole on every rank. n must
divide what is cut, counted in units that stay whole (the scheme of Megatron-LM, Shoeybi et al., 2019).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.errors import StartError
from ernie_backend.weights.roles import ROUTED, SHARED, Role

MAX_RANKS = 1 << 10
"""The most that ``tensor_parallel_size`` may be."""
_BY_HALVES = frozenset({Role.GATE_UP, Role.EXPERT_GATE_UP, Role.SHARED_GATE_UP})
_BY_ROWS = frozenset({Role.EMBEDDING, Role.HEAD})
_BY_COLUMNS = frozenset({Role.OUTPUT, Role.DOWN, Role.EXPERT_DOWN, Role.SHARED_DOWN})
T = TypeVar("T", bound=np.generic)


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
    def name(self) -> str:
        """A name for files; empty for the only rank."""
        if self.size == 1:
            return ""
        return f"rank{self.rank}of{self.size}{'-experts' if self.is_expert_parallel else ''}"


@dataclass(frozen=True)
class Part:
    """A rank's part of an ``[N, K]`` matrix.

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
        """Yield, in the part's order, which rows of which tensor it has; ``heights`` are the tensors' rows.

        The ranges count rows of the matrix, in which tensor ``index`` occupies ``top`` to ``top + height``.
        """
        for rows in self.rows:
            top = 0
            for index, height in enumerate(heights):
                start, stop = max(rows.start, top), min(rows.stop, top + height)
                if start < stop:
                    yield index, range(start - top, stop - top)
                top += height


def shard_of(config: ModelConfig, rank: int, size: int, *, is_expert_parallel: bool) -> Shard:
    """Return the shard of a rank; without experts, expert parallelism has no effect."""
    if not is_expert_parallel or config.moe is None:
        return Shard(rank, size)
    is_dense_whole = any(length % size for length, _ in _dense_sizes(config))
    return Shard(rank, size, is_expert_parallel=True, is_dense_whole=is_dense_whole)


def part_of(role: Role, shape: tuple[int, int], config: ModelConfig, shard: Shard) -> Part:
    """Return the rank's part of the matrix of ``role`` with ``shape`` [N, K]; ``check_split`` has passed."""
    outputs, inputs = shape
    if role in _BY_ROWS:
        return Part(_rows((outputs,), shard), range(inputs))
    is_whole = shard.is_expert_parallel if role in ROUTED else shard.is_dense_whole
    if is_whole or shard.size == 1:
        return Part((range(outputs),), range(inputs))
    if role is Role.QKV:
        # Cut apart, so that a rank has the queries that read its own keys and values.
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        return Part(_rows((queries, keys, keys), shard), range(inputs))
    if role in _BY_HALVES:
        return Part(_rows((outputs // 2, outputs // 2), shard), range(inputs))
    if role in _BY_COLUMNS:
        return Part((range(outputs),), _share(inputs, shard))
    return Part((range(outputs),), range(inputs))


def experts_of(role: Role, num_experts: int, shard: Shard) -> range:
    """Return the experts of which the rank has the matrices of ``role``, or parts of them.

    Shared experts that are whole on every rank belong to the first one only, so that they are added once. A
    role without experts counts as one expert that all ranks have.
    """
    if role in ROUTED and shard.is_expert_parallel:
        return _share(num_experts, shard)
    return range(0 if role in SHARED and shard.is_dense_whole and shard.rank else num_experts)


def kv_heads_of(config: ModelConfig, shard: Shard) -> range:
    """Return the key and value heads that the rank has."""
    return _share(config.num_kv_heads, shard.dense)


def vocabulary_of(vocab_size: int, shard: Shard) -> range:
    """Return the token ids whose rows of the embedding and of the head the rank has."""
    return _share(vocab_size, shard)


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


def expert_block(stored: QuantizationConfig | None, quantization: str | None) -> int:
    """Return how many inputs of an expert's down matrix stay together; see ``QuantizationConfig.expert_block``.

    Args:
        stored: how the checkpoint is quantized.
        quantization: what it is loaded as; w4a8 without a checkpoint of its own are random weights.
    """
    if stored is None and quantization == "w4a8":
        stored = QuantizationConfig("w4a8")
    return 1 if stored is None else stored.expert_block


def can_split(config: ModelConfig, shard: Shard, block: int = 1) -> bool:
    """Whether a group of ``shard.size`` ranks can share a model; for ``block`` see ``check_split``."""
    has_whole_blocks = all(bank.intermediate_size % block == 0 for bank in config.expert_banks)
    return has_whole_blocks and all(length % shard.size == 0 for length, _ in _cut_sizes(config, shard, block))


def check_split(config: ModelConfig, shard: Shard, block: int = 1) -> None:
    """Check that a group of ``shard.size`` ranks can share a model.

    Args:
        config: the model's sizes.
        shard: one of the ranks, whichever.
        block: inputs of an expert's down matrix that must stay together: a Hadamard block, or the two whose
            stored int4 codes share a byte.

    Raises:
        StartError: the block does not divide that matrix, or the ranks do not divide what is cut; names all
            numbers of ranks that do.
    """
    for bank in config.expert_banks:
        if bank.intermediate_size % block:
            raise StartError(
                f"moe_intermediate_size {bank.intermediate_size} is not a multiple of {block}, the inputs of "
                "an expert's down matrix that stay together under this quantization; choose another"
            )
    sizes = _cut_sizes(config, shard, block)
    misfits = dict.fromkeys(f"{length} {name}" for length, name in sizes if length % shard.size)
    if misfits:
        # Group sizes that divide everything are the divisors of the greatest common divisor.
        common = math.gcd(*(length for length, _ in sizes))
        possible = [str(n) for n in range(1, min(common, MAX_RANKS) + 1) if common % n == 0]
        spread = Shard(0, shard.size, is_expert_parallel=True)
        is_spread_possible = (
            bool(config.expert_banks) and not shard.is_expert_parallel and can_split(config, spread, block)
        )
        raise StartError(
            f"tensor_parallel_size is {shard.size}, which does not divide {', '.join(misfits)} of this model; "
            f"possible: {', '.join(possible)}"
            + (f", or {shard.size} with enable_expert_parallel" if is_spread_possible else "")
        )


def _cut_sizes(config: ModelConfig, shard: Shard, block: int) -> list[tuple[int, str]]:
    """Return what must be cut, in units that stay whole, with names for messages."""
    vocabulary = (config.vocab_size, "rows of the vocabulary")
    if config.expert_banks and shard.is_expert_parallel:
        return [vocabulary, *((bank.num_experts, "experts") for bank in config.expert_banks)]
    unit = "moe_intermediate_size" if block == 1 else f"blocks of {block} in moe_intermediate_size"
    widths = [(bank.intermediate_size // block, unit) for bank in config.expert_banks]
    return [*_dense_sizes(config), vocabulary, *widths]


def _dense_sizes(config: ModelConfig) -> list[tuple[int, str]]:
    sizes = [
        (config.num_heads, "query heads"),
        (config.num_kv_heads, "key and value heads"),
        (config.intermediate_size, "intermediate_size"),
    ]
    if config.moe is not None and config.moe.shared_size:
        sizes.append((config.moe.shared_size, "moe_intermediate_size of the shared experts"))
    return sizes
