"""What a service needs of its ops, known before any weight is: not every implementation has it all."""

from __future__ import annotations

from typing import NamedTuple


class Needs(NamedTuple):
    """What the settings and the model of a service ask of the ops.

    Attributes:
        block_size: tokens of a block of the KV cache.
        cache_dtype: of keys and values.
        has_cache_scales: whether the checkpoint has static scales for an int8 cache.
        is_interleaved: whether rotary pairs are (2i, 2i + 1); otherwise (i, i + head_dim / 2).
        spreads_experts: whether a rank has some of the experts only.
    """

    block_size: int
    cache_dtype: str
    has_cache_scales: bool = False
    is_interleaved: bool = True
    spreads_experts: bool = False
