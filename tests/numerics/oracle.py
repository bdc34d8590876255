"""ERNIE-4.5, dense or with experts, over a whole sequence at once, in plain NumPy: no cache, no batch, no ops.

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
    """All tensors of a checkpoint of bfloat16 and float32, as float32."""
    weights = {}
    for path in directory.glob("*.safetensors"):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        for name, entry in json.loads(content[8:start]).items():
            if name != "__metadata__":
                begin, end = (start + offset for offset in entry["data_offsets"])
                weights[name] = _values(content[begin:end], entry["dtype"]).reshape(entry["shape"])
    return weights


def _values(content: bytes, dtype: str) -> Floats:
    if dtype == "F32":
        return np.frombuffer(content, np.float32)
    return (np.frombuffer(content, np.uint16).astype(np.uint32) << 16).view(np.float32)


def round_weights(weights: dict[str, Floats], quantization: str) -> dict[str, Floats]:
    """All matrices as int8 with one scale per row sees them, under ``wint4`` those of routed experts as int4.

    Vectors and routers stay as they are, and a lookup table that is not the head too.
    """
    rounded = dict(weights)
    for name, values in weights.items():
        is_lookup = name.endswith("embed_tokens.weight") and "lm_head.weight" in weights
        if values.ndim == 2 and not is_lookup and not name.endswith(("mlp.gate.weight", "correction_bias")):
            is_int4 = quantization == "wint4" and ".mlp.experts." in name
            rounded[name] = _rounded(values, 7 if is_int4 else 127)
    return rounded


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
    def read(cls, directory: Path, quantization: str | None = None, activation: str | None = None) -> Oracle:
        weights = read_weights(directory)
        config = json.loads((directory / "config.json").read_text())
        return cls(config, round_weights(weights, quantization) if quantization else weights, activation)

    def logits(self, tokens: list[int]) -> Floats:
        """Logits ``[T, V]`` of every token."""
        embedding = self.weights["model.embed_tokens.weight"]
        x = embedding[tokens]
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            x = x + self.attention(name + "self_attn.", self._norm(x, name + "input_layernorm.weight"))
            x = x + self.transform(layer, self._norm(x, name + "post_attention_layernorm.weight"))
        return self.head(self._norm(x, "model.norm.weight"))

    @property
    def head_dim(self) -> int:
        return self.config.get("head_dim") or self.config["hidden_size"] // self.config["num_attention_heads"]

    def head(self, x: Floats) -> Floats:
        is_tied = "lm_head.weight" not in self.weights
        return self.multiply(x, "model.embed_tokens.weight" if is_tied else "lm_head.weight")

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

    def transform(self, layer: int, x: Floats) -> Floats:
        """The MLP of a layer, or its experts, token by token."""
        name = f"model.layers.{layer}.mlp."
        if name + "gate.weight" not in self.weights:
            return self.mlp(name, x)
        logits = x @ self.weights[name + "gate.weight"].T
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        scores = probabilities + self.weights[name + "moe_statics.e_score_correction_bias"]
        results = np.zeros_like(x)
        for token, row in enumerate(x):
            chosen = sorted(range(len(scores[token])), key=lambda expert: -scores[token, expert])
            chosen = chosen[: self.config["moe_k"]]
            total = max(probabilities[token, chosen].sum(), np.float32(1e-12))
            for expert in chosen:
                result = self.mlp(f"{name}experts.{expert}.", row[None])[0]
                results[token] += probabilities[token, expert] / total * result
        has_shared = name + "shared_experts.up_proj.weight" in self.weights
        return results + self.mlp(name + "shared_experts.", x) if has_shared else results

    def attention(self, name: str, x: Floats) -> Floats:
        return self.attend(name, *(self.multiply(x, f"{name}{part}_proj.weight") for part in "qkv"))

    def attend(self, name: str, *qkv: Floats) -> Floats:
        """The attention of queries, keys and values ``[T, heads * width]``, and the output Linear."""
        count, width = len(qkv[0]), self.head_dim
        heads, kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        queries, keys, values = (part.reshape(count, -1, width) for part in qkv)
        queries, keys = self._rotate(queries), self._rotate(keys)
        keys, values = self.cached(name, keys, values)
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

    def cached(self, name: str, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        """Keys and values ``[T, kv_heads, width]`` of the attention ``name`` as a cache gives them back."""
        if not self.has_int8_cache:
            return keys, values
        return self._rounded_heads(keys), self._rounded_heads(values)

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
