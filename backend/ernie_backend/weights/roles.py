"""The parts that weights play in a decoder, whatever a checkpoint calls them.

This module must not know names, shapes or formats.
"""

from __future__ import annotations

import enum


class Role(enum.Enum):
    """What a weight is for. Matrices are ``[N, K]``: N outputs, K inputs.

    H hidden size, D head dim, I intermediate size, V vocabulary.
    """

    EMBEDDING = "embedding"  # [V, H], the lookup table
    INPUT_NORM = "input norm"  # [H]
    QKV = "qkv"  # [(heads + 2 * kv_heads) * D, H]: all queries, all keys, all values
    OUTPUT = "attention output"  # [H, heads * D]
    POST_ATTENTION_NORM = "post-attention norm"  # [H]
    GATE_UP = "gate and up"  # [2I, H]: all gate rows first
    DOWN = "down"  # [H, I]
    FINAL_NORM = "final norm"  # [H]
    HEAD = "output head"  # [V, H]; absent from a checkpoint that ties it to the embedding
