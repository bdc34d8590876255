"""The roles of weights in a decoder, whatever a checkpoint calls them."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Role(enum.Enum):
    """The role of a weight. Matrices are ``[N, K]``: N outputs, K inputs.

    H hidden size, D head dim, I intermediate size, V vocabulary, E experts, X width of one expert, S width of
    all shared experts.
    """

    EMBEDDING = "embedding"  # [V, H], the lookup table
    INPUT_NORM = "input norm"  # [H]
    QKV = "qkv"  # [(heads + 2 * kv_heads) * D, H]: all queries, all keys, all values
    OUTPUT = "attention output"  # [H, heads * D]
    POST_ATTENTION_NORM = "post-attention norm"  # [H]
    GATE_UP = "gate and up"  # [2I, H]: all gate rows first
    DOWN = "down"  # [H, I]
    ROUTER = "router"  # [E, H]
    ROUTER_BIAS = "router bias"  # [E], added to the scores for the choice of experts only
    EXPERT_GATE_UP = "expert's gate and up"  # [2X, H]: all gate rows first
    EXPERT_DOWN = "expert's down"  # [H, X]
    SHARED_GATE_UP = "shared experts' gate and up"  # [2S, H]: all gate rows first
    SHARED_DOWN = "shared experts' down"  # [H, S]
    FINAL_NORM = "final norm"  # [H]
    HEAD = "output head"  # [V, H]; absent from a checkpoint that ties it to the embedding

    @property
    def is_vector(self) -> bool:
        """Whether it is a norm or a bias, always in float32; otherwise it is a matrix."""
        return self in _VECTORS


_VECTORS = frozenset({Role.INPUT_NORM, Role.POST_ATTENTION_NORM, Role.FINAL_NORM, Role.ROUTER_BIAS})
ROUTED = frozenset({Role.EXPERT_GATE_UP, Role.EXPERT_DOWN})
"""The routed experts: most of a model, and the least of what a token reads."""
SHARED = frozenset({Role.SHARED_GATE_UP, Role.SHARED_DOWN})


class WeightKey(NamedTuple):
    """One weight of a model; layer and expert are 0 where it belongs to none."""

    role: Role
    layer: int = 0
    expert: int = 0
