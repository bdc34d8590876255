"""What goes into a model's experts and KV cache, measured on texts: the static scales of w4a8 and c8.

The model is computed in float32 from its own weights, layer by layer. In memory are the hidden states of all
texts and, for some texts at a time, one matrix and what it makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ernie_backend.errors import StartError
from ernie_backend.model_config import ModelConfig
from ernie_backend.weights.checkpoints.safetensors_reader import SafetensorsFile
from ernie_backend.weights.checkpoints.safetensors_writer import tensor_file
from ernie_backend.weights.float_conversion import as_float32
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.roles import Role
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
_BLOCK_TOKENS = 2048
"""Tokens of some texts that go through a layer together: the widest MLP, of 28,672, makes 344 KB of each."""


@dataclass(frozen=True)
class Calibration:
    """Absmax by layer; ``NOTHING`` for an expert that no token chose.

    Attributes:
        gate_up: float32 ``[layers, experts]``, of the inputs of each expert's first matrix.
        down: the same of its second one, whose inputs are rotated (``ernie_kernels.hadamard``).
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

        So it is for one that saw zeros only. Also returns a line for each layer where that happened.
        """
        notices = []
        filled = [absmax.copy() for absmax in (self.gate_up, self.down)]
        for layer, row in enumerate(self.gate_up):
            unseen = row == NOTHING
            if unseen.all():  # a layer without experts
                continue
            for absmax in filled:
                absmax[layer, absmax[layer] <= 0] = absmax[layer].max()
            if unseen.any():
                notices.append(
                    f"layer {layer + 1}: {unseen.sum()} of {len(row)} experts were chosen by no token of the "
                    "texts and take the largest absmax of their layer; more texts would measure them"
                )
        return Calibration(filled[0], filled[1], self.keys, self.values), notices


@dataclass
class CalibrationState:
    """How far the texts have come through the model.

    Attributes:
        layers: how many have seen them.
        hidden: float32 ``[T, H]``, what these have made of the texts, which are laid end to end.
        measured: the absmax of these layers.
    """

    layers: int
    hidden: Floats
    measured: Calibration


_MEASURED = [field.name for field in fields(Calibration)]
_NAMES = ["layers", "hidden", *_MEASURED]


def write_state(path: Path, state: CalibrationState) -> None:
    """Write how far a calibration has come to ``path``."""
    with tensor_file(path, _NAMES) as file:
        file.add("layers", np.array([state.layers], np.float32))
        file.add("hidden", state.hidden)
        for name in _MEASURED:
            file.add(name, getattr(state.measured, name))


def read_state(path: Path) -> CalibrationState | None:
    """Return what ``write_state`` has written; None if there is nothing, or it is damaged."""
    try:
        file = SafetensorsFile(path)
    except StartError:
        return None
    try:
        if file.entries.keys() != set(_NAMES):
            return None
        found = {name: np.array(file.tensor(name), np.float32) for name in _NAMES}
    finally:
        file.close()
    measured = Calibration(**{name: found[name] for name in _MEASURED})
    return CalibrationState(int(found["layers"][0]), found["hidden"], measured)


def calibrate(
    weights: CheckpointWeights,
    config: ModelConfig,
    texts: Sequence[Sequence[int]],
    rotation: int,
    state: CalibrationState | None,
    keep: Callable[[CalibrationState], None],
) -> Calibration:
    """Run the model over ``texts`` (token ids) and return what it measured.

    Args:
        weights: opened as float32, without quantization.
        config: the model's sizes.
        texts: each one a context of its own.
        rotation: block in which the inputs of an expert's second matrix are rotated.
        state: what was kept of an earlier run over the same texts.
        keep: takes the state after each layer.

    Raises:
        StartError: a weight, or what it makes of the texts, is not finite.
    """
    if state is None:
        ids = np.concatenate([np.asarray(text, np.int64) for text in texts])
        hidden = as_float32(weights.as_stored(Role.EMBEDDING)[ids])
        state = CalibrationState(0, hidden, Calibration.empty(config))
    lengths = [len(text) for text in texts]
    forward = _Forward(weights, config, max(lengths), rotation, state.measured)
    for layer in range(state.layers, config.num_layers):
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
            for rows, of_block in _blocks(lengths):
                state.hidden[rows] = forward.run(layer, state.hidden[rows], of_block)
        if not np.isfinite(state.hidden).all():
            raise StartError(
                f"calibration: layer {layer + 1} makes a number that is not finite of these texts, so nothing "
                "can be measured; give other texts, or another checkpoint"
            )
        state.layers = layer + 1
        keep(state)
    return state.measured


def _blocks(lengths: Sequence[int]) -> Iterator[tuple[slice, list[int]]]:
    """Yield rows of whole texts, at least one, of up to ``_BLOCK_TOKENS`` tokens, with the texts' lengths."""
    start, block = 0, list[int]()
    for length in lengths:
        if block and sum(block) + length > _BLOCK_TOKENS:
            yield slice(start, start + sum(block)), block
            start, block = start + sum(block), []
        block.append(length)
    yield slice(start, start + sum(block)), block


class _Forward:
    """The layers of a model; what goes into experts and cache is added to ``measured``."""

    def __init__(
        self,
        weights: CheckpointWeights,
        config: ModelConfig,
        longest: int,
        rotation: int,
        measured: Calibration,
    ) -> None:
        self._weights = weights
        self._config = config
        self._rotary: RotaryTable = rotary_table(config.rotary(longest))
        self._rotation = rotation
        self._measured = measured

    def run(self, layer: int, x: Floats, lengths: Sequence[int]) -> Floats:
        """Return what a layer makes of some texts ``[T, H]`` of ``lengths``, laid end to end."""
        x = x + self._attention(layer, self._normed(x, Role.INPUT_NORM, layer), lengths)
        hidden = self._normed(x, Role.POST_ATTENTION_NORM, layer)
        return x + (self._moe if self._config.has_experts(layer) else self._dense)(layer, hidden)

    def _normed(self, x: Floats, role: Role, layer: int) -> Floats:
        return rms_norm(x, self._weights.vector(role, layer), self._config.rms_norm_eps)

    def _product(self, x: Floats, role: Role, layer: int, expert: int = 0) -> Floats:
        product: Floats = x @ as_float32(self._weights.as_stored(role, layer, expert)).T
        self._weights.forget()
        return product

    def _attention(self, layer: int, hidden: Floats, lengths: Sequence[int]) -> Floats:
        positions = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
        kv_heads = self._config.num_kv_heads
        heads = self._product(hidden, Role.QKV, layer).reshape(len(hidden), -1, self._config.head_dim)
        queries, keys, values = np.split(heads, [-2 * kv_heads, -kv_heads], axis=1)
        queries, keys = (rotate(part, positions, self._rotary) for part in (queries, keys))
        for absmax, seen in ((self._measured.keys[layer], keys), (self._measured.values[layer], values)):
            np.maximum(absmax, np.abs(seen).max(axis=0).reshape(-1), out=absmax)
        ends = np.cumsum(lengths)[:-1]
        parts = zip(*(np.split(part, ends) for part in (queries, keys, values)), strict=True)
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
        for absmax, inputs in ((self._measured.gate_up, x), (self._measured.down, seen)):
            absmax[layer, expert] = max(absmax[layer, expert], np.abs(inputs).max())
        return self._product(inner, Role.EXPERT_DOWN, layer, expert)
