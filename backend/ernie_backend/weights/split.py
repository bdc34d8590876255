"""Among how many ranks a model can be shared out: what is cut must be divided, in units that stay whole.

The one place for this rule: settings, loader, converter and planner ask here. This module must not know
config.json, tensors or ranks' parts.
"""

from __future__ import annotations

import math

from ernie_backend.errors import StartError
from ernie_backend.model_shape import ModelShape
from ernie_backend.stored_quantization import StoredQuantization

MAX_RANKS = 1 << 10
"""The most that ``tensor_parallel_size`` may be."""


def expert_block(stored: StoredQuantization | None, quantization: str | None) -> int:
    """Return how many inputs of an expert's down matrix stay together; see ``StoredQuantization.expert_block``.

    Args:
        stored: how the checkpoint is quantized.
        quantization: what it is loaded as; w4a8 without a checkpoint of its own are random weights.
    """
    if stored is None and quantization == "w4a8":
        stored = StoredQuantization("w4a8")
    return 1 if stored is None else stored.expert_block


def is_dense_whole(shape: ModelShape, ranks: int, *, is_expert_parallel: bool) -> bool:
    """Whether attention, dense MLPs and shared experts are whole on every rank, since they cannot be cut."""
    is_spread = is_expert_parallel and shape.experts is not None
    return is_spread and any(size % ranks for size, _ in _dense_sizes(shape))


def can_share(shape: ModelShape, ranks: int, *, is_expert_parallel: bool, block: int = 1) -> bool:
    """Whether ``ranks`` can share a model; for ``block`` see ``check_sizes``."""
    has_whole_blocks = all(width % block == 0 for width in _expert_widths(shape))
    return has_whole_blocks and all(
        size % ranks == 0 for size, _ in _cut_sizes(shape, is_expert_parallel, block)
    )


def check_sizes(shape: ModelShape, ranks: int, *, is_expert_parallel: bool, block: int = 1) -> None:
    """Check that ``ranks`` can share a model.

    Args:
        shape: the model's sizes.
        ranks: how many share it.
        is_expert_parallel: whether each has whole experts.
        block: inputs of an expert's down matrix that must stay together: a Hadamard block, or the two whose
            stored int4 codes share a byte.

    Raises:
        StartError: the block does not divide that matrix, or the ranks do not divide what is cut; names all
            numbers of ranks that do.
    """
    for width in _expert_widths(shape):
        if width % block:
            raise StartError(
                f"moe_intermediate_size {width} is no multiple of {block}: so many inputs of an expert's down "
                "matrix stay together under this quantization; choose another"
            )
    sizes = _cut_sizes(shape, is_expert_parallel, block)
    misfits = [f"{size} {name}" for size, name in sizes if size % ranks]
    if misfits:
        common = math.gcd(*(size for size, _ in sizes))
        possible = [str(n) for n in range(1, min(common, MAX_RANKS) + 1) if common % n == 0]
        is_spread_possible = (
            shape.experts is not None
            and not is_expert_parallel
            and can_share(shape, ranks, is_expert_parallel=True, block=block)
        )
        raise StartError(
            f"tensor_parallel_size is {ranks}, which does not divide {', '.join(misfits)} of this model; "
            f"possible {'are' if len(possible) > 1 else 'is'} {', '.join(possible)}"
            + (f", or {ranks} with enable_expert_parallel" if is_spread_possible else "")
        )


def _cut_sizes(shape: ModelShape, is_expert_parallel: bool, block: int) -> list[tuple[int, str]]:
    """Return what must be cut, in the units that stay whole, with names for people."""
    vocabulary = (shape.vocab_size, "rows of the vocabulary")
    if shape.experts is not None and is_expert_parallel:
        return [vocabulary, *((bank.count, "experts") for bank in shape.experts.banks)]
    unit = "moe_intermediate_size" if block == 1 else f"blocks of {block} in moe_intermediate_size"
    return [
        *_dense_sizes(shape),
        vocabulary,
        *((width // block, unit) for width in _expert_widths(shape)),
    ]


def _dense_sizes(shape: ModelShape) -> list[tuple[int, str]]:
    sizes = [
        (shape.num_heads, "query heads"),
        (shape.num_kv_heads, "key and value heads"),
        (shape.intermediate_size, "intermediate_size"),
    ]
    if shape.experts is not None and shape.experts.shared_width:
        sizes.append((shape.experts.shared_width, "moe_intermediate_size of the shared experts"))
    return sizes


def _expert_widths(shape: ModelShape) -> list[int]:
    return [] if shape.experts is None else [bank.width for bank in shape.experts.banks]
