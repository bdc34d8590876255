"""ERNIE-4.5 dense over a whole sequence at once, in plain NumPy: no cache, no batch, no ops.

Written from the maths alone and from the files of the HF layout, so that it shares no code with what it judges.
Weights, the inputs of Linears, keys and values can be rounded as the int8 formats and activation types say.
The weights of the checkpoint are bfloat16.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LEVELS = {"int8": 127, "int16": 127 * 128}
GROUP = 128


def read_weights(directory: Path) -> dict[str, Floats]:
    """All tensors of a one-file bfloat16 checkpoint, as float32."""
    content = (directory / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    weights = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            begin, end = (start + offset for offset in entry["data_offsets"])
            bits = np.frombuffer(content[begin:end], np.uint16).astype(np.uint32) << 16
            weights[name] = bits.view(np.float32).reshape(entry["shape"])
    return weights


def round_weights(weights: dict[str, Floats]) -> dict[str, Floats]:
    """All matrices as int8 with one scale per row sees them; vectors as they are."""
    return {name: _rounded(values, 127) if values.ndim == 2 else values for name, values in weights.items()}


def _rounded(values: Floats, levels: int) -> Floats:
    scales = np.abs(values).max(axis=1, keepdims=True) / np.float32(levels)
    codes: Floats = np.rint(values / np.where(scales == 0, 1, scales)).clip(-levels, levels)
    rounded: Floats = codes * scales
    return rounded


def _rounded_to_bfloat16(values: Floats) -> Floats:
    """Eight significant bits, half to even."""
    mantissas, exponents = np.frexp(values)
    return np.ldexp(np.rint(mantissas * 256) / np.float32(256), exponents)


@dataclass(frozen=True)
class Oracle:
    """How it rounds.

    Attributes:
        activation: None, ``bfloat16``, ``int8`` or ``int16``.
        has_int8_cache: keys and values have int8 codes.
    """

    config: dict[str, int]
    weights: dict[str, Floats]
    activation: str | None = None
    has_int8_cache: bool = False

    @classmethod
    def read(cls, directory: Path, *, is_quantized: bool = False, activation: str | None = None) -> Oracle:
        weights = read_weights(directory)
        config = json.loads((directory / "config.json").read_text())
        return cls(config, round_weights(weights) if is_quantized else weights, activation)

    def logits(self, tokens: list[int]) -> Floats:
        """Logits ``[T, V]`` of every token."""
        embedding = self.weights["model.embed_tokens.weight"]
        x = embedding[tokens]
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            x = x + self.attention(name + "self_attn.", self._norm(x, name + "input_layernorm.weight"))
            x = x + self.mlp(name + "mlp.", self._norm(x, name + "post_attention_layernorm.weight"))
        return self.multiply(self._norm(x, "model.norm.weight"), "model.embed_tokens.weight")

    def multiply(self, x: Floats, name: str) -> Floats:
        if self.activation == "bfloat16":
            x = _rounded_to_bfloat16(x)
        elif self.activation is not None:
            parts = np.split(x, range(GROUP, x.shape[1], GROUP), axis=1)
            x = np.concatenate([_rounded(part, LEVELS[self.activation]) for part in parts], axis=1)
        product: Floats = x @ self.weights[name].T
        return product

    def _norm(self, x: Floats, name: str) -> Floats:
        normed: Floats = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + np.float32(1e-5))
        return normed * self.weights[name]

    def mlp(self, name: str, x: Floats) -> Floats:
        gate, up = (self.multiply(x, f"{name}{part}_proj.weight") for part in ("gate", "up"))
        return self.multiply(gate / (1 + np.exp(-gate)) * up, name + "down_proj.weight")

    def attention(self, name: str, x: Floats) -> Floats:
        count, width = len(x), self.config["head_dim"]
        heads, kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        queries, keys, values = (
            self.multiply(x, f"{name}{part}_proj.weight").reshape(count, -1, width) for part in "qkv"
        )
        queries, keys = self._rotate(queries), self._rotate(keys)
        if self.has_int8_cache:
            keys, values = self._rounded_heads(keys), self._rounded_heads(values)
        is_past = np.tri(count, dtype=bool)
        results = np.empty_like(queries)
        for head in range(heads):
            shared = head * kv_heads // heads
            scores = np.where(
                is_past, queries[:, head] @ keys[:, shared].T / np.sqrt(np.float32(width)), -np.inf
            )
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            results[:, head] = weights / weights.sum(axis=1, keepdims=True) @ values[:, shared]
        return self.multiply(results.reshape(count, -1), name + "o_proj.weight")

    def _rounded_heads(self, x: Floats) -> Floats:
        """Each head vector of ``[T, heads, width]`` with a scale of its own."""
        return _rounded(x.reshape(-1, x.shape[-1]), 127).reshape(x.shape)

    def _rotate(self, x: Floats) -> Floats:
        """Turn each pair (2i, 2i + 1), as a complex number, by position * 500000 ** (-2i / width)."""
        count, _, width = x.shape
        angles = np.outer(np.arange(count), 500000.0 ** (-np.arange(0, width, 2) / width))
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None, :].astype(np.complex64)
        rotated: Floats = np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)
        return rotated
