"""Writes checkpoints in FastDeploy's layout from its formulas alone, to check reader and converter against.

Nothing here comes from the code under test. A Linear is ``[K, N]``: K inputs, N outputs. Where the formulas
stand in FastDeploy's source: docs/quantization.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.checkpoints.safetensors_writer import write_tensors

Tensors = dict[str, NDArray[Any]]
_FUSED = {
    "q_proj": ("qkv_proj", ("q_proj", "k_proj", "v_proj")),
    "gate_proj": ("up_gate_proj", ("gate_proj", "up_proj")),
}


def paddle_tensors(huggingface: Mapping[str, NDArray[Any]]) -> Tensors:
    """Rename, fuse and transpose: columns [q | k | v] and [gate | up]."""
    found = {}
    for name, values in huggingface.items():
        renamed = name.replace("model.", "ernie.", 1)
        kind = name.split(".")[-2]
        if kind in _FUSED:
            fused, kinds = _FUSED[kind]
            parts = [huggingface[name.replace(kind, each)] for each in kinds]
            found[renamed.replace(kind, fused)] = np.concatenate(parts).T
        elif kind in ("o_proj", "down_proj", "gate", "lm_head"):
            found[renamed] = values.T
        elif kind not in ("k_proj", "v_proj", "up_proj"):
            found[renamed] = values
    return found


def checkpoint_tensors(
    huggingface: Mapping[str, NDArray[Any]],
    quantization: str,
    activation_scales: Mapping[str, NDArray[Any]] | None = None,
) -> Tensors:
    """Quantize a checkpoint: dense Linears to int8, experts to what ``quantization`` says; no head, no router.

    ``activation_scales``, of inputs and caches, are added as they are.
    """
    tensors: Tensors = {}
    for name, values in paddle_tensors(huggingface).items():
        if not name.endswith("_proj.weight"):
            tensors[name] = values
            continue
        is_expert = ".experts." in name
        levels = 7 if is_expert and quantization != "wint8" else 127
        rotation = 128 if is_expert and "down_proj" in name and quantization == "w4a8" else 0
        weight = (values.astype(np.uint32) << 16).view(np.float32)
        tensors |= quantized(name, weight, levels, rotation)
    return tensors | dict(activation_scales or {})


def quantized(name: str, weight: NDArray[np.float32], levels: int, rotation: int = 0) -> Tensors:
    """Quantize a Linear: q = rint(w * levels / absmax); two int4 codes in a byte, even k in the low half.

    With ``rotation`` its inputs are rotated in blocks before, by a matrix that keeps lengths. Kernels rotate
    activations by sums and differences, without 1 / sqrt(rotation), for which the scales make up. Dividing by
    absmax / levels sends the few numbers that lie half way between two codes where ours go.
    """
    if rotation:
        blocks = weight.reshape(-1, rotation, weight.shape[1])
        weight = np.einsum("ij,bjn->bin", hadamard(rotation), blocks).reshape(weight.shape).astype(np.float32)
    absmax = np.abs(weight).max(axis=0)
    codes = np.rint(weight / (absmax / np.float32(levels))).astype(np.int8)
    if levels == 7:
        codes = (codes[0::2] & 15) | (codes[1::2] << 4)
    base = name.removesuffix("weight")
    if rotation:
        absmax = absmax / np.float32(np.sqrt(rotation))
    return {base + "quant_weight": codes, base + "weight_scale": absmax}


def hadamard(block: int) -> NDArray[np.float64]:
    """Sylvester's matrix / sqrt(block): H[i, j] = (-1)^(common bits of i and j)."""
    index = np.arange(block)
    bits = [bin(each).count("1") for each in (index[:, None] & index).ravel()]
    signs: NDArray[np.float64] = 1.0 - 2.0 * (np.array(bits).reshape(block, block) % 2)
    return signs / np.float64(np.sqrt(block))


def cut(tensors: Mapping[str, NDArray[Any]], rank: int, ranks: int, heads: tuple[int, int]) -> Tensors:
    """Return the part of a rank; ``heads``: of queries and of keys."""
    return {name: _cut(name, values, rank, ranks, heads) for name, values in tensors.items()}


def _cut(name: str, values: NDArray[Any], rank: int, ranks: int, heads: tuple[int, int]) -> NDArray[Any]:
    def share(each: NDArray[Any], axis: int = -1) -> NDArray[Any]:
        return np.split(each, ranks, axis)[rank]

    kind, last = name.split(".")[-2:]
    if kind == "qkv_proj":
        dim = values.shape[-1] // (heads[0] + 2 * heads[1])
        parts = np.split(values, [heads[0] * dim, (heads[0] + heads[1]) * dim], axis=-1)
        return np.concatenate([share(part) for part in parts], axis=-1)
    if kind == "up_gate_proj" and last != "activation_scale":
        return np.concatenate([share(half) for half in np.split(values, 2, axis=-1)], axis=-1)
    if kind in ("o_proj", "down_proj"):
        return share(values, 0) if last in ("weight", "quant_weight") else values
    if kind == "embed_tokens":
        return share(values, 0)
    return share(values) if kind in ("lm_head", "cachek_matmul", "cachev_matmul") else values


def write_model(directory: Path, config: Mapping[str, Any], tensors: Tensors, ranks: int = 1) -> Path:
    """Write a model of ``config``, cut for ``ranks`` if there are several; returns its directory."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    heads = config["num_attention_heads"], config["num_key_value_heads"]
    for rank in range(ranks):
        place = directory / f"rank{rank}" if ranks > 1 else directory
        place.mkdir(exist_ok=True)
        write_tensors(place / "model.safetensors", cut(tensors, rank, ranks, heads))
    return directory
