"""Measures the inputs of a model's experts and KV cache on texts, for the static scales of w4a8 and c8.

The model file itself runs in float32, layer by layer, over ops that record. Memory holds the hidden states of
all texts and, for some texts at a time, one matrix and its results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.errors import StartError
from ernie_backend.models.base import Model
from ernie_backend.models.load import build_model
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_backend.weights.base import ModelWeights
from ernie_backend.weights.checkpoints.safetensors_reader import SafetensorsFile
from ernie_backend.weights.checkpoints.safetensors_writer import tensor_file
from ernie_backend.weights.float_conversion import as_float32
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.precision import Precision
from ernie_backend.weights.roles import Role
from ernie_kernels.api import Batch, CacheSpec, MlpWeights, Ops
from ernie_kernels.formats import ActivationType, Float32Weight, LinearWeight, dequantize
from ernie_kernels.hadamard import rotate_blocks
from ernie_kernels.reference.attention import ReferenceCache
from ernie_kernels.reference.moe import ReferenceMoe, moe
from ernie_kernels.reference.ops import ReferenceOps, swiglu
from ernie_kernels.rotary import RotaryTable

Floats = NDArray[np.float32]
NOTHING = -1.0
"""The absmax of an empty set."""
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
        experts = sum(bank.num_experts for bank in config.expert_banks)
        channels = config.num_kv_heads * config.head_dim
        nothing = [np.full((config.num_layers, width), NOTHING, np.float32) for width in (experts, channels)]
        return cls(nothing[0], nothing[0].copy(), nothing[1], nothing[1].copy())

    def filled(self) -> tuple[Calibration, list[str]]:
        """Return the same, with the largest absmax of its layer for experts that saw no token, or zeros only.

        Also returns a notice for each layer with an expert that no token chose.
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
        layers: how many have been computed.
        hidden: float32 ``[T, H]``, their output for all texts, laid end to end.
        measured: the absmax of these layers.
    """

    layers: int
    hidden: Floats
    measured: Calibration


_MEASURED = [field.name for field in fields(Calibration)]
_NAMES = ["layers", "hidden", *_MEASURED]


def write_state(path: Path, state: CalibrationState) -> None:
    """Write the state of a calibration to ``path``."""
    with tensor_file(path, _NAMES) as file:
        file.add("layers", np.array([state.layers], np.float32))
        file.add("hidden", state.hidden)
        for name in _MEASURED:
            file.add(name, getattr(state.measured, name))


def read_state(path: Path) -> CalibrationState | None:
    """Return what ``write_state`` wrote; None if it is absent or damaged."""
    try:
        file = SafetensorsFile(path)
    except StartError:
        return None
    try:
        if file.entries.keys() != set(_NAMES):
            return None
        arrays = {name: np.array(file.tensor(name), np.float32) for name in _NAMES}
    finally:
        file.close()
    measured = Calibration(**{name: arrays[name] for name in _MEASURED})
    return CalibrationState(int(arrays["layers"][0]), arrays["hidden"], measured)


def calibrate(
    weights: CheckpointWeights,
    config: ModelConfig,
    texts: Sequence[Sequence[int]],
    rotation: int,
    state: CalibrationState | None,
    keep: Callable[[CalibrationState], None],
) -> Calibration:
    """Run the model over ``texts`` (token ids) and return the measurements.

    Args:
        weights: opened as float32, without quantization.
        config: the model's sizes.
        texts: each one a context of its own.
        rotation: block in which the inputs of an expert's second matrix are rotated.
        state: that of an earlier run over the same texts.
        keep: receives the state after each layer.

    Raises:
        StartError: a weight or a hidden state is not finite.
    """
    if state is None:
        ids = np.concatenate([np.asarray(text, np.int64) for text in texts])
        hidden = as_float32(weights.as_stored(Role.EMBEDDING)[ids])
        state = CalibrationState(0, hidden, Calibration.empty(config))
    lengths = [len(text) for text in texts]
    for layer in range(state.layers, config.num_layers):
        ops = _RecordingOps(state.measured, layer, rotation)
        model = _one_layer(weights, config, layer, state.hidden, max(lengths), ops)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
            for rows, of_block in _blocks(lengths):
                batch = _batch(rows, of_block)
                cache = CacheSpec(len(batch.token_ids), 1, config.num_kv_heads, config.head_dim, "float32")
                model.forward(batch, [ops.allocate_cache(cache)])
                state.hidden[rows] = ops.residual
        if not np.isfinite(state.hidden).all():
            raise StartError(
                f"calibration: layer {layer + 1} computes a number that is not finite for these texts, so "
                "nothing can be measured; give other texts, or another checkpoint"
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


def _batch(rows: slice, lengths: Sequence[int]) -> Batch:
    """Return a step of whole texts, which are ``rows`` of all texts; a block of the cache holds one token."""
    starts = np.cumsum([0, *lengths])
    tables = np.full((len(lengths), max(lengths)), -1)
    for table, start, length in zip(tables, starts, lengths, strict=False):
        table[:length] = range(start, start + length)
    return Batch(
        token_ids=np.arange(rows.start, rows.stop, dtype=np.int32),
        positions=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        query_starts=starts.astype(np.int32),
        context_lengths=np.zeros(len(lengths), np.int32),
        block_tables=tables.astype(np.int32),
        logit_rows=np.zeros(0, np.int32),
    )


def _one_layer(
    weights: CheckpointWeights, config: ModelConfig, layer: int, states: Floats, longest: int, ops: Ops
) -> Model:
    """Return a layer as a model of its own.

    Its tokens are the rows of all texts, and its embedding is the output of the layers before for each: so the
    model file computes the layer exactly as in a whole model.
    """
    moe = replace(config.moe, layers=range(1)) if config.moe and config.has_experts(layer) else None
    one = replace(config, num_layers=1, tie_word_embeddings=True, moe=moe)
    loading = LoadSettings("float32", None, ActivationType.FLOAT32, max_model_len=longest)
    return build_model(one, _LayerWeights(weights, one, layer, states), ops, loading)


class _LayerWeights(ModelWeights):
    """The weights of one layer, as those of a model of one layer with ``states`` as its embedding."""

    def __init__(self, weights: CheckpointWeights, config: ModelConfig, layer: int, states: Floats) -> None:
        super().__init__(config, Precision("float32", None, is_tied=True), None)
        self._weights = weights
        self._layer = layer
        self._states = states

    def linear(self, role: Role, layer: int = 0, expert: int = 0) -> LinearWeight:
        """Return a matrix that is read when it is used."""
        if role is Role.EMBEDDING:
            return Float32Weight(self._states)
        return _Unread(lambda: self._read(role, self._layer + layer, expert))

    def vector(self, role: Role, layer: int = 0) -> Floats:
        """Return a vector of the layer, or the final norm."""
        return self._weights.vector(role, 0 if role is Role.FINAL_NORM else self._layer + layer)

    def cache_scales(self, layer: int) -> None:
        """Return None: the cache is float32."""

    def _read(self, role: Role, layer: int, expert: int) -> Floats:
        values = as_float32(self._weights.as_stored(role, layer, expert))
        self._weights.forget()
        return values


class _Unread(Float32Weight):
    """A matrix that is read each time it is needed, and not kept."""

    def __init__(self, read: Callable[[], Floats]) -> None:
        object.__setattr__(self, "_read", read)

    @property
    def values(self) -> Floats:
        """The numbers, ``[N, K]``."""
        read: Callable[[], Floats] = vars(self)["_read"]
        return read()


class _RecordingOps(ReferenceOps):
    """The reference ops; inputs of the experts and of the cache of ``layer`` are recorded in ``measured``.

    Attributes:
        residual: float32 ``[T, H]``, the sum of the last ``add_norm``.
    """

    def __init__(self, measured: Calibration, layer: int, rotation: int) -> None:
        super().__init__()
        self.residual: Floats = np.empty((0, 0), np.float32)
        self._measured = measured
        self._layer = layer
        self._rotation = rotation

    def attention(self, qkv: Floats, rotary: RotaryTable, cache: ReferenceCache, batch: Batch) -> Floats:
        """Attend, and record the keys and values that the cache has then."""
        attended = super().attention(qkv, rotary, cache, batch)
        for absmax, seen in ((self._measured.keys, cache.keys), (self._measured.values, cache.values)):
            of_layer = absmax[self._layer]
            np.maximum(of_layer, np.abs(seen).max(axis=(0, 1)).reshape(-1), out=of_layer)
        return attended

    def moe(self, x: Floats, layer: ReferenceMoe, batch: Batch) -> Floats:
        """Compute a layer of experts, and record the inputs of both matrices of each."""
        # The same objects that ``moe`` hands to ``mlp`` below; the shared experts are not among them.
        experts = {
            id(expert): number
            for number, expert in enumerate(expert for bank in layer.banks for expert in bank.experts)
        }

        def mlp(rows: Floats, weights: MlpWeights) -> Floats:
            inner = swiglu(rows @ dequantize(weights.gate_up).T)
            if (expert := experts.get(id(weights))) is not None:
                seen = rotate_blocks(inner, self._rotation) if self._rotation else inner
                for absmax, inputs in ((self._measured.gate_up, rows), (self._measured.down, seen)):
                    absmax[self._layer, expert] = max(absmax[self._layer, expert], np.abs(inputs).max())
            return inner @ dequantize(weights.down).T

        return moe(x, layer, batch.vision_rows, mlp)

    def add_norm(self, x: Floats, delta: Floats, weight: Floats, epsilon: float) -> tuple[Floats, Floats]:
        """Add and norm; the last sum of a layer is its output."""
        self.residual, normed = super().add_norm(x, delta, weight, epsilon)
        return self.residual, normed
