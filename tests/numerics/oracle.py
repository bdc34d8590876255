"""ERNIE-4.5, dense or with experts, also for media, over a whole sequence at once, in plain NumPy.

No cache, no batch, no ops.

Written from the maths alone and from the files of the HF layout, so that it shares no code with what it judges.
Weights, the inputs of Linears, keys and values can be rounded as the int8 formats and activation types say.
The weights of the checkpoint are bfloat16.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numerics.golden import MediaPrompt

Floats = NDArray[np.float32]
Positions = NDArray[np.int32] | None
"""``[3, T]``; None: of a text."""

LEVELS = {"int8": 127, "int16": 127 * 128}
GROUPS = {"int8": 32, "int16": 1024}


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
        if values.ndim == 2 and not is_lookup and not re.search(r"mlp\.gate\.|correction_bias", name):
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

    config: dict[str, Any]
    weights: dict[str, Floats]
    activation: str | None = None
    has_int8_cache: bool = False

    @classmethod
    def read(cls, directory: Path, quantization: str | None = None, activation: str | None = None) -> Oracle:
        weights = read_weights(directory)
        config = json.loads((directory / "config.json").read_text())
        config |= config.get("text_config", {})
        return cls(config, round_weights(weights, quantization) if quantization else weights, activation)

    def logits(self, tokens: list[int]) -> Floats:
        """Logits ``[T, V]`` of every token of a text."""
        return self._logits(self.weights["model.embed_tokens.weight"][tokens], None, None)

    def media_logits(self, prompt: MediaPrompt) -> Floats:
        """Logits ``[P, V]`` of every token of a prompt with media."""
        x = self.weights["model.embed_tokens.weight"][prompt.tokens]
        x[prompt.is_media] = prompt.media
        return self._logits(x, prompt.positions, prompt.is_vision)

    def _logits(self, x: Floats, positions: Positions, is_vision: NDArray[np.bool_] | None) -> Floats:
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            normed = self._norm(x, name + "input_layernorm.weight")
            x = x + self.attention(name + "self_attn.", normed, positions)
            x = x + self.transform(layer, self._norm(x, name + "post_attention_layernorm.weight"), is_vision)
        return self.head(self._norm(x, "model.norm.weight"))

    @property
    def head_dim(self) -> int:
        width: int = self.config["hidden_size"] // self.config["num_attention_heads"]
        return self.config.get("head_dim") or width

    def head(self, x: Floats) -> Floats:
        is_tied = "lm_head.weight" not in self.weights
        return self.multiply(x, "model.embed_tokens.weight" if is_tied else "lm_head.weight")

    def _activation(self, name: str) -> str | None:
        """How the inputs of a matrix are rounded: under int8 q, k, v and a dense MLP's down see int16."""
        is_careful = name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", ".mlp.down_proj.weight"))
        return "int16" if self.activation == "int8" and is_careful else self.activation

    def multiply(self, x: Floats, name: str) -> Floats:
        activation = self._activation(name)
        if activation == "bfloat16":
            x = _rounded_to_bfloat16(x)
        elif activation is not None:
            group = GROUPS[activation]
            parts = np.split(x, range(group, x.shape[1], group), axis=1)
            x = np.concatenate([_rounded(part, LEVELS[activation]) for part in parts], axis=1)
        product: Floats = x @ self.weights[name].T
        return product

    def _norm(self, x: Floats, name: str) -> Floats:
        normed: Floats = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + np.float32(1e-5))
        return normed * self.weights[name]

    def mlp(self, name: str, x: Floats) -> Floats:
        gate, up = (self.multiply(x, f"{name}{part}_proj.weight") for part in ("gate", "up"))
        return self.multiply(gate / (1 + np.exp(-gate)) * up, name + "down_proj.weight")

    def transform(self, layer: int, x: Floats, is_vision: NDArray[np.bool_] | None = None) -> Floats:
        """The MLP of a layer, or its experts, token by token."""
        name = f"model.layers.{layer}.mlp."
        if name + "gate.weight" not in self.weights:
            return self.mlp(name, x)
        results = np.zeros_like(x)
        for token, row in enumerate(x):
            bank = int(is_vision is not None and is_vision[token])
            gate, bias = self._router(name, bank)
            logits = gate @ row
            probabilities = np.exp(logits - logits.max())
            probabilities /= probabilities.sum()
            scores = probabilities + bias
            chosen = sorted(range(len(scores)), key=lambda expert: -scores[expert])[: self.config["moe_k"]]
            total = max(probabilities[chosen].sum(), np.float32(1e-12))
            for expert in chosen:
                result = self.mlp(f"{name}experts.{bank * len(scores) + expert}.", row[None])[0]
                results[token] += probabilities[expert] / total * result
        has_shared = name + "shared_experts.up_proj.weight" in self.weights
        return results + self.mlp(name + "shared_experts.", x) if has_shared else results

    def _router(self, name: str, bank: int) -> tuple[Floats, Floats]:
        """The matrix ``[E, H]`` and the bias of a router; those for text and media are stored ``[H, E]``."""
        biases = self.weights[name + "moe_statics.e_score_correction_bias"]
        gate = self.weights[name + ("gate.weight", "gate.weight_1")[bank]]
        return gate if len(biases) == 1 else gate.T, biases[bank]

    def attention(self, name: str, x: Floats, positions: Positions = None) -> Floats:
        qkv = [self.multiply(x, f"{name}{part}_proj.weight") for part in "qkv"]
        return self.attend(name, *qkv, positions=positions)

    def attend(self, name: str, *qkv: Floats, positions: Positions = None) -> Floats:
        """The attention of queries, keys and values ``[T, heads * width]``, and the output Linear."""
        count, width = len(qkv[0]), self.head_dim
        heads, kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        queries, keys, values = (part.reshape(count, -1, width) for part in qkv)
        queries, keys = self._rotate(queries, positions), self._rotate(keys, positions)
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

    def _rotate(self, x: Floats, positions: Positions) -> Floats:
        """Turn each pair, as a complex number, by position * 500000 ** (-2i / width)."""
        count, _, width = x.shape
        if positions is None:
            positions = np.tile(np.arange(count), (3, 1))
        is_halves = self.config["model_type"].startswith("paddleocr_vl")
        places = self._contiguous(positions) if is_halves else self._alternating(positions, width // 2)
        turns = np.exp(1j * places * 500000.0 ** (-np.arange(0, width, 2) / width))[:, None, :]
        first, second = np.split(x, 2, axis=-1) if is_halves else (x[..., 0::2], x[..., 1::2])
        turned = (first + 1j * second) * turns.astype(np.complex64)
        axis = -2 if is_halves else -1
        return np.stack([turned.real, turned.imag], axis=axis).reshape(x.shape).astype(np.float32)

    def _contiguous(self, positions: NDArray[np.int32]) -> NDArray[np.int32]:
        """The position that turns each pair ``[T, pairs]``: time, height and width by sections."""
        sections = self.config["rope_parameters"]["mrope_section"]
        return np.repeat(positions.T, sections, axis=1)

    def _alternating(self, positions: NDArray[np.int32], pairs: int) -> NDArray[np.int32]:
        """Height and width in turns, then time as often as the last section says."""
        time, height, width = positions
        last = self.config.get("rope_parameters", {}).get("mrope_section", [0])[-1]
        in_turns = [(height, width)[pair % 2] for pair in range(pairs - last)]
        return np.stack(in_turns + [time] * last, axis=1)
