"""What a row could reach: the bytes and operations of its work over the limits that were probed beside it."""

from __future__ import annotations

from typing import Any

from comparison.rows import OURS_21B, OURS_21B_INT4, OURS_BF16, Row
from model_shapes import SHAPE, SHAPE_21B

CONTEXT = 64
"""Tokens of a decoding sequence, about."""

INT4_BYTES = 0.5 + 2 / 64
"""Of a weight of ``wint4_all``: its code, and its share of a bfloat16 scale for 64."""

Sizes = dict[str, float]


def weights_of(shape: dict[str, Any]) -> Sizes:
    """Return the numbers of weights: dense ones of all layers, the head, one expert, layers of experts."""
    hidden, head_dim, layers = shape["hidden_size"], shape["head_dim"], shape["num_hidden_layers"]
    heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    first = shape.get("moe_layer_start_index", layers)
    width = shape.get("moe_intermediate_size", 0)
    shared = 3 * hidden * width * shape.get("moe_num_shared_experts", 0)
    dense = layers * attention + first * 3 * hidden * shape["intermediate_size"] + (layers - first) * shared
    return {
        "dense": dense,
        "head": hidden * shape["vocab_size"],
        "expert": 3 * hidden * width,
        "moe_layers": layers - first,
        "experts": shape.get("moe_num_experts", 0),
        "chosen": shape.get("moe_k", 0),
    }


def step_bytes(name: str, batch: int) -> float:
    """Return the bytes that a decode step of contender ``name`` reads: weights, KV cache in bfloat16."""
    is_21b = name in (OURS_21B, OURS_21B_INT4)
    shape = SHAPE_21B if is_21b else SHAPE
    sizes = weights_of(shape)
    dense = {OURS_BF16: 2.0, OURS_21B_INT4: INT4_BYTES}.get(name, 1.0)
    touched = sizes["experts"] * (1 - (1 - sizes["chosen"] / max(1, sizes["experts"])) ** batch)
    cache = 4 * shape["num_key_value_heads"] * shape["head_dim"] * shape["num_hidden_layers"] * CONTEXT * batch
    head = 2.0 if name == OURS_BF16 else 1.0
    experts = sizes["moe_layers"] * touched * sizes["expert"] * 0.5
    return float(dense * sizes["dense"] + head * sizes["head"] + experts + cache)


def token_operations(name: str, context: float, *, with_head: bool) -> float:
    """Return multiplications and additions of a token that attends to ``context`` tokens."""
    shape = SHAPE_21B if name in (OURS_21B, OURS_21B_INT4) else SHAPE
    sizes = weights_of(shape)
    active = sizes["dense"] + sizes["moe_layers"] * sizes["chosen"] * sizes["expert"]
    attention = 4 * context * shape["num_attention_heads"] * shape["head_dim"] * shape["num_hidden_layers"]
    return float(2 * (active + (sizes["head"] if with_head else 0)) + attention)


def limit(row: Row, name: str, bandwidth_gbs: float, peak_gops: float) -> float:
    """Return the tokens a second that memory and arithmetic allow contender ``name``."""
    if row.kind == "decode":
        operations = token_operations(name, CONTEXT, with_head=True)
        memory_s = step_bytes(name, row.size) / bandwidth_gbs / 1e9
        return row.size / max(memory_s, row.size * operations / peak_gops / 1e9)
    return peak_gops * 1e9 / token_operations(name, row.size / 2, with_head=False)


def instruction(facts: dict[str, Any]) -> str:
    """Return the instruction that multiplies in our kernels, by the name that the probe has for it."""
    level, activation = str(facts["instruction_set"]), str(facts["activation_dtype"])
    tiles, wide = level == "avx512-amx", level.startswith("avx512")
    bytes_at_once = "vpdpbusd ymm" if level == "avx2-vnni" else "vpdpbusd zmm"
    vnni = level in ("avx2-vnni", "avx512-vnni", "avx512-bf16", "avx512-amx")
    if activation == "int8":
        return "tdpbssd" if tiles else bytes_at_once if vnni else "vpmaddubsw ymm"
    if activation == "int16":
        return "tdpbssd twice" if tiles else f"{bytes_at_once} twice" if vnni else "vpmaddwd ymm"
    if activation == "bfloat16" and level in ("avx512-bf16", "avx512-amx"):
        return "tdpbf16ps" if tiles else "vdpbf16ps zmm"
    return "vfmadd231ps zmm" if wide else "vfmadd231ps ymm"
