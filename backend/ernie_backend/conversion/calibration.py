"""What goes into a model's experts and KV cache, measured on texts: the static scales of w4a8 and c8.

The model is computed in float32 from its own weights, layer by layer over all texts at once, so that no more
than one matrix is in memory beside the hidden states. This module must not know files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_backend.errors import StartError
from ernie_backend.model_config import ModelConfig
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.roles import Role
from ernie_backend.weights.stored_floats import as_float32
from ernie_kernels.api import RotarySpec
from ernie_kernels.hadamard import rotate_blocks
from ernie_kernels.reference.attention import attend
from ernie_kernels.reference.mlp import swiglu
from ernie_kernels.reference.norm import rms_norm
from ernie_kernels.reference.rotary import rotate
from ernie_kernels.rotary import RotaryTable, rotary_table
from ernie_kernels.routing import choose_experts

Floats = NDArray[np.float32]
NOTHING = -1.0
"""The absmax of numbers of which there were none."""


@dataclass(frozen=True)
class Calibration:
    """Absmax by layer; ``NOTHING`` for an expert that no token chose.

    Attributes:
        gate_up: float32 ``[layers, experts]``, of the inputs of each expert's first matrix.
        down: the same of its second one, whose inputs are rotated.
        keys: float32 ``[layers, kv_heads * head_dim]``, after rotation by position.
        values: the same of values.
    """

    gate_up: Floats
    down: Floats
    keys: Floats
    values: Floats

    @classmethod
    def empty(cls, config: ModelConfig) -> Calibration:
        """Return one without measurements."""
        experts = config.moe.num_experts if config.moe else 0
        channels = config.num_kv_heads * config.head_dim
        nothing = [np.full((config.num_layers, width), NOTHING, np.float32) for width in (experts, channels)]
        return cls(nothing[0], nothing[0].copy(), nothing[1], nothing[1].copy())

    def filled(self) -> tuple[Calibration, list[str]]:
        """Return the same with the largest absmax of its layer for each expert that no token chose.

        Also returns a line for each layer where that happened.
        """
        notices = []
        filled = [absmax.copy() for absmax in (self.gate_up, self.down)]
        for layer, row in enumerate(self.gate_up):
            unseen = row == NOTHING
            if not unseen.any() or unseen.all():
                continue
            for absmax in filled:
                absmax[layer, unseen] = absmax[layer, ~unseen].max()
            notices.append(
                f"layer {layer}: {unseen.sum()} of {len(row)} experts were chosen by no token of the texts and "
                "take the largest absmax of their layer; more texts would measure them"
            )
        return Calibration(filled[0], filled[1], self.keys, self.values), notices


def calibrate(
    weights: CheckpointWeights,
    config: ModelConfig,
    texts: Sequence[Sequence[int]],
    rotation: int,
    report: Callable[[str], None],
) -> Calibration:
    """Run the model over ``texts`` (token ids) and return what it measured.

    Args:
        weights: opened as float32, without quantization.
        config: the model's sizes.
        texts: each one a context of its own.
        rotation: block in which the inputs of an expert's second matrix are rotated.
        report: takes a line for each layer.

    Raises:
        StartError: a weight, or what it makes of the texts, is not finite.
    """
    return _Forward(weights, config, texts, rotation).run(report)


class _Forward:
    """One pass over all texts, laid end to end: rows ``[T, H]``."""

    def __init__(
        self, weights: CheckpointWeights, config: ModelConfig, texts: Sequence[Sequence[int]], rotation: int
    ) -> None:
        self._weights = weights
        self._config = config
        self._ends = np.cumsum([len(text) for text in texts])[:-1]
        self._positions = np.concatenate([np.arange(len(text)) for text in texts]).astype(np.int32)
        self._rotary: RotaryTable = rotary_table(
            RotarySpec(config.head_dim, int(self._positions.max()) + 1, config.rope_theta)
        )
        self._rotation = rotation
        self._measured = Calibration.empty(config)
        ids = np.concatenate([np.asarray(text, np.int64) for text in texts])
        self._x = as_float32(weights.as_stored(Role.EMBEDDING)[ids])

    def run(self, report: Callable[[str], None]) -> Calibration:
        for layer in range(self._config.num_layers):
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
                self._run(layer)
            self._check_finite(layer)
            report(f"calibration: layer {layer + 1} of {self._config.num_layers}, {len(self._x)} tokens")
        return self._measured

    def _run(self, layer: int) -> None:
        self._x = self._x + self._attention(layer, self._normed(Role.INPUT_NORM, layer))
        hidden = self._normed(Role.POST_ATTENTION_NORM, layer)
        is_moe = self._config.has_experts(layer)
        self._x = self._x + (self._moe if is_moe else self._dense)(layer, hidden)

    def _check_finite(self, layer: int) -> None:
        """Weights that are finite can make of a text what is not; its absmax would be a scale of nothing."""
        if not np.isfinite(self._x).all():
            raise StartError(
                f"calibration: layer {layer + 1} makes a number that is not finite of these texts, so nothing "
                "can be measured; give other texts, or another checkpoint"
            )

    def _normed(self, role: Role, layer: int) -> Floats:
        return rms_norm(self._x, self._weights.vector(role, layer), self._config.rms_norm_eps)

    def _product(self, x: Floats, role: Role, layer: int, expert: int = 0) -> Floats:
        product: Floats = x @ as_float32(self._weights.as_stored(role, layer, expert)).T
        self._weights.forget()
        return product

    def _attention(self, layer: int, hidden: Floats) -> Floats:
        kv_heads = self._config.num_kv_heads
        heads = self._product(hidden, Role.QKV, layer).reshape(len(hidden), -1, self._config.head_dim)
        queries, keys, values = np.split(heads, [-2 * kv_heads, -kv_heads], axis=1)
        queries, keys = (rotate(part, self._positions, self._rotary) for part in (queries, keys))
        self._measured.keys[layer] = np.abs(keys).max(axis=0).reshape(-1)
        self._measured.values[layer] = np.abs(values).max(axis=0).reshape(-1)
        parts = zip(*(np.split(part, self._ends) for part in (queries, keys, values)), strict=True)
        attended = np.concatenate([attend(text[0], text[1], text[2], context=0) for text in parts])
        return self._product(attended.reshape(len(hidden), -1), Role.OUTPUT, layer)

    def _dense(self, layer: int, hidden: Floats) -> Floats:
        return self._product(swiglu(self._product(hidden, Role.GATE_UP, layer)), Role.DOWN, layer)

    def _moe(self, layer: int, hidden: Floats) -> Floats:
        moe = self._config.moe
        assert moe is not None  # noqa: S101 - the layer has experts
        logits = self._product(hidden, Role.ROUTER, layer)
        routing = choose_experts(logits, self._weights.vector(Role.ROUTER_BIAS, layer), moe.experts_per_token)
        total = np.zeros_like(hidden)
        if moe.num_shared_experts:
            inner = swiglu(self._product(hidden, Role.SHARED_GATE_UP, layer))
            total += self._product(inner, Role.SHARED_DOWN, layer)
        for expert in range(moe.num_experts):
            rows, places = np.nonzero(routing.experts == expert)
            if rows.size:
                result = self._expert(layer, expert, hidden[rows])
                total[rows] += routing.weights[rows, places][:, None] * result
        return total

    def _expert(self, layer: int, expert: int, x: Floats) -> Floats:
        inner = swiglu(self._product(x, Role.EXPERT_GATE_UP, layer, expert))
        seen = rotate_blocks(inner, self._rotation) if self._rotation else inner
        self._measured.gate_up[layer, expert] = np.abs(x).max()
        self._measured.down[layer, expert] = np.abs(seen).max()
        return self._product(inner, Role.EXPERT_DOWN, layer, expert)
