"""Weights that a checkpoint holds quantized, in FastDeploy's layout: read, and written by ``quantize``.

The Paddle layout's names, with ``weight`` replaced; a Linear has K inputs and N outputs:

    quant_weight      int8 [K, N] codes; for int4 [K / 2, N], two codes per byte, even k in the low nibble
    weight_scale      [N], the absmax of each output's weights; [ceil(K / 64), N] for int4 in groups of inputs,
                      then what the code 1 stands for, of either sign
    activation_scale  [1], w4a8 only: the absmax of the inputs that the weight was calibrated with
    cachek_matmul.activation_scale, cachev_matmul...  [kv_heads * head_dim], the absmax of each channel

An absmax divided by the largest code is a scale of ``ernie_kernels.formats``. Under w4a8 those of
an expert's down matrix are of rotated inputs, and of the weight that undoes their rotation
(``ernie_kernels.hadamard``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.errors import StartError
from ernie_backend.weights.float_conversion import as_float32, float32_blocks
from ernie_backend.weights.precision import QUANTIZED, Precision, WeightFormat
from ernie_backend.weights.recipes import CheckpointTensor, Recipe, Recipes
from ernie_backend.weights.roles import ROUTED, Role, WeightKey
from ernie_backend.weights.sharding import Part
from ernie_kernels.api import CacheScales
from ernie_kernels.formats import (
    WEIGHT_GROUP,
    GroupedInt4Weight,
    Int4Weight,
    Int8Weight,
    QuantizedWeight,
    W4A8Weight,
    input_scale,
    quantize_grouped_int4,
    quantize_int4,
    quantize_int8,
    round_to_bfloat16,
)
from ernie_kernels.hadamard import fold_rotation

_LEVELS = {WeightFormat.INT8: 127, WeightFormat.INT4: 7, WeightFormat.W4A8: 7}


class Tensors(Protocol):
    """The tensors of a checkpoint."""

    def tensor(self, name: str) -> NDArray[np.generic]:
        """Return a tensor as stored; bfloat16 as uint16 bits."""
        ...

    def file_of(self, name: str) -> Path:
        """Return the file that holds it, or a part of it."""
        ...


@dataclass(frozen=True)
class StoredWeight:
    """The tensors of a quantized weight; ``input_absmax`` is None unless the format is w4a8.

    ``scales`` are absmaxes of outputs, or the scales themselves where there is one for each group of inputs.
    """

    codes: CheckpointTensor
    scales: CheckpointTensor
    input_absmax: CheckpointTensor | None

    @property
    def tensors(self) -> tuple[CheckpointTensor, ...]:
        """All tensors of the weight."""
        return (self.codes, self.scales, *((self.input_absmax,) if self.input_absmax else ()))


def stored_weight(recipe: Recipe, fmt: WeightFormat) -> StoredWeight | None:
    """Return the tensors of a quantized weight of the Paddle layout; None for another recipe."""
    name = recipe.tensors[0].name
    if not recipe.is_transposed or not name.endswith("_proj.weight"):
        return None
    base = name.removesuffix("weight")
    inputs, outputs = recipe.tensors[0].shape
    rows = inputs if fmt is WeightFormat.INT8 else inputs // 2
    groups = (-(-inputs // WEIGHT_GROUP),) if fmt is WeightFormat.GROUPED_INT4 else ()
    return StoredWeight(
        CheckpointTensor(base + "quant_weight", (rows, outputs)),
        CheckpointTensor(base + "weight_scale", (*groups, outputs)),
        CheckpointTensor(base + "activation_scale", (1,)) if fmt is WeightFormat.W4A8 else None,
    )


def stored_weights(
    recipes: Recipes, precision: Precision, names: Collection[str], *, is_expected: bool
) -> dict[WeightKey, StoredWeight]:
    """Return the weights that a checkpoint with tensors ``names`` holds quantized, or should.

    ``is_expected``: config.json says that weights are quantized; those that are present unquantized stay so.

    Raises:
        StartError: w4a8 is requested of a checkpoint without the Paddle layout, or another format of experts
            that are w4a8: their codes have the same shapes as those of wint4, and other numbers.
    """
    weights = {}
    for key, recipe in recipes.items():
        fmt = WeightFormat.FLOAT32 if key.role.is_vector else precision.format_of(key.role)
        stored = stored_weight(recipe, fmt) if fmt in QUANTIZED else None
        if stored is None:
            if fmt is WeightFormat.W4A8:
                raise StartError("w4a8 is read from the Paddle layout only (ernie.layers.*)")
            continue
        if key.role in ROUTED and fmt is not WeightFormat.W4A8:
            _check_not_w4a8(stored, fmt, names)
        is_missing = is_expected and recipe.tensors[0].name not in names
        if fmt is WeightFormat.W4A8 or stored.codes.name in names or is_missing:
            weights[key] = stored
    return weights


def _check_not_w4a8(stored: StoredWeight, fmt: WeightFormat, names: Collection[str]) -> None:
    inputs = stored.codes.name.replace("quant_weight", "activation_scale")
    if stored.codes.name in names and inputs in names:
        raise StartError(
            f"tensor {inputs} says that this expert was quantized as w4a8, but the format is "
            f"{fmt.value}: set quantization_config.moe_quant_type in config.json to w4a8"
        )


def brings_cache_scales(config: ModelConfig, names: Collection[str]) -> bool:
    """Return whether a checkpoint with tensors ``names`` brings static scales of the KV cache, or should.

    Raises:
        StartError: they are of codes that have a zero point.
    """
    specs = [spec.name for layer in range(config.num_layers) for spec in cache_scale_specs(config, layer)]
    for name in specs:
        zero_point = name.replace("activation_scale", "activation_zero_point")
        if zero_point in names:
            raise StartError(
                f"tensor {zero_point} shifts the KV cache, which is symmetric here, and "
                "quantization_config.has_zero_point in config.json does not mention it; make the checkpoint by "
                "ernie-triton quantize --kv-cache c8, or remove the tensor if it is a leftover"
            )
    stored = config.quantization_config
    return (stored is not None and stored.has_cache_scales) or any(name in names for name in specs)


def cache_scale_specs(config: ModelConfig, layer: int) -> tuple[CheckpointTensor, CheckpointTensor]:
    """Return the absmax of a layer's keys and values."""
    prefix, shape = f"ernie.layers.{layer}.self_attn.", (config.num_kv_heads * config.head_dim,)
    return (
        CheckpointTensor(prefix + "cachek_matmul.activation_scale", shape),
        CheckpointTensor(prefix + "cachev_matmul.activation_scale", shape),
    )


def read_stored(
    tensors: Tensors, stored: StoredWeight, fmt: WeightFormat, rotation: int, part: Part
) -> QuantizedWeight | W4A8Weight:
    """Read a part of a quantized weight into new memory.

    Args:
        tensors: the checkpoint.
        stored: the weight's tensors, whose shapes were checked.
        fmt: its format.
        rotation: for w4a8, the block in which its inputs are rotated; 0: not.
        part: the part to read; two int4 codes share a byte, so it begins and ends at even inputs.

    Raises:
        StartError: the codes are not int8, or a scale is negative or not finite, or that of the inputs is 0.
    """
    codes = tensors.tensor(stored.codes.name)
    if codes.dtype != np.int8:
        raise _error(tensors, stored.codes, f"has type {codes.dtype}; quantized weights are int8")
    rows = [slice(each.start, each.stop) for each in part.rows]
    if fmt is WeightFormat.GROUPED_INT4:
        return _read_groups(tensors, stored, part)
    scales = _absmax(tensors, stored.scales, *rows) / np.float32(_LEVELS[fmt])
    if fmt is WeightFormat.INT8:
        # Stored inputs first; ``cut`` takes rows of outputs.
        int8 = np.concatenate(part.cut([codes.T.view(np.int8)]))
        if int8.size and int8.min() == -128:
            raise _error(tensors, stored.codes, "has the code -128; int8 weights have -127 to 127")
        return Int8Weight(int8, scales)
    packed = _packed_part(codes, part)
    weight = Int4Weight(packed, scales, 2 * packed.shape[1])
    if stored.input_absmax is None:
        return weight
    absmax = float(_absmax(tensors, stored.input_absmax)[0])
    if not absmax and packed.any():
        raise _error(
            tensors, stored.input_absmax, "is 0: the expert would see zeros only; copy the checkpoint again"
        )
    return W4A8Weight(weight, input_scale(absmax), rotation)


def _packed_part(codes: NDArray[np.generic], part: Part) -> NDArray[np.uint8]:
    """Return int4 codes of a part: a byte has inputs 2j and 2j + 1, as in Int4Weight, so bytes are cut."""
    bytes_of_part = replace(part, columns=range(part.columns.start // 2, part.columns.stop // 2))
    return np.concatenate(bytes_of_part.cut([codes.T])).view(np.uint8)


def group_range(columns: range, inputs: int, name: str) -> range:
    """Return the groups that make up some ``columns`` of a matrix; StartError if they cut one apart."""
    if columns.start % WEIGHT_GROUP or (columns.stop % WEIGHT_GROUP and columns.stop < inputs):
        raise StartError(
            f"tensor {name} has scales for {WEIGHT_GROUP} inputs, and a rank would have {columns.start} to "
            f"{columns.stop}, which cuts such a group apart; give another tensor_parallel_size"
        )
    return range(columns.start // WEIGHT_GROUP, -(-columns.stop // WEIGHT_GROUP))


def _read_groups(tensors: Tensors, stored: StoredWeight, part: Part) -> GroupedInt4Weight:
    whole = tensors.tensor(stored.scales.name)
    if whole.dtype == np.int8:
        raise _error(tensors, stored.scales, "has type int8; scales are floats")
    groups = group_range(part.columns, 2 * stored.codes.shape[0], stored.scales.name)
    scales = np.concatenate(replace(part, columns=groups).cut([as_float32(whole).T]))
    if not np.isfinite(scales).all():
        raise _error(tensors, stored.scales, "has a scale that is not finite; copy the checkpoint again")
    packed = _packed_part(tensors.tensor(stored.codes.name), part)
    return GroupedInt4Weight(packed, round_to_bfloat16(scales), len(part.columns))


def quantized_tensors(
    stored: StoredWeight,
    fmt: WeightFormat,
    values: NDArray[np.generic],
    input_absmax: float = 0.0,
    rotation: int = 0,
) -> dict[str, NDArray[np.generic]]:
    """Return the tensors of a quantized weight, by name.

    Args:
        stored: their names and shapes.
        fmt: the format.
        values: the weight ``[N, K]``: floats, or bfloat16 bits as uint16.
        input_absmax: for w4a8, that of the inputs, rotated if they are.
        rotation: block of the rotation of the inputs, which the weight undoes; 0: they are not rotated.
    """
    codes = np.empty(stored.codes.shape, np.int8)
    scales = np.empty(stored.scales.shape, np.float32)
    for rows, block in float32_blocks(values):
        if fmt is WeightFormat.GROUPED_INT4:
            grouped = quantize_grouped_int4(block)
            codes[:, rows], scales[:, rows] = grouped.packed.view(np.int8).T, grouped.scales.T
            continue
        seen = fold_rotation(block, rotation) if rotation else block
        scales[rows] = np.abs(seen).max(axis=1, initial=0.0)
        if fmt is WeightFormat.INT8:
            codes[:, rows] = quantize_int8(seen).codes.T
        else:
            codes[:, rows] = quantize_int4(seen).packed.view(np.int8).T
    tensors: dict[str, NDArray[np.generic]] = {stored.codes.name: codes, stored.scales.name: scales}
    if stored.input_absmax is not None:
        tensors[stored.input_absmax.name] = np.array([input_absmax], np.float32)
    return tensors


def rotation_warning(tensors: Tensors, stored: Mapping[WeightKey, StoredWeight], block: int) -> str | None:
    """Return a warning if experts' down weights do not look as if they undid a rotation in blocks of ``block``.

    Nothing in a checkpoint says whether they do, but the numbers of W H / B are sqrt(B) times smaller than
    those of W, which have the size of the expert's other matrix. So the ratio of the two should be near
    B ** -0.5; above B ** -0.25, halfway to 1 on a logarithmic scale, the weights are W H / sqrt(B), or W.
    """
    down = next((key for key in stored if key.role is Role.EXPERT_DOWN and stored[key].input_absmax), None)
    if down is None:
        return None
    names = [stored[key].scales.name for key in (down, down._replace(role=Role.EXPERT_GATE_UP))]
    absmax, of_other = (float(as_float32(tensors.tensor(name)).mean()) for name in names)
    ratio = absmax / of_other if of_other else 0.0
    if not ratio > block**-0.25:
        return None
    return (
        f"{tensors.file_of(names[0])}: tensor {names[0]} is {ratio:.2f} times {names[1]} on average; "
        f"about {block**-0.5:.2f} is expected of weights that undo the Hadamard rotation of their inputs, so "
        "answers may make no sense. An older ernie-triton quantize wrote such checkpoints: make it again "
        "(docs/quantization.md)"
    )


def read_cache_scales(tensors: Tensors, config: ModelConfig, layer: int, heads: range) -> CacheScales:
    """Read the scales of some heads of a layer's KV cache; raises StartError unless they are absmax."""
    channels = slice(heads.start * config.head_dim, heads.stop * config.head_dim)
    keys, values = (
        (_absmax(tensors, spec, channels) / np.float32(127)).reshape(len(heads), config.head_dim)
        for spec in cache_scale_specs(config, layer)
    )
    return CacheScales(keys, values)


def missing_hint(name: str, names: Collection[str]) -> str:
    """Return what a missing tensor is for, as the rest of a sentence; ``names`` are present."""
    if name.endswith("_proj.weight") and name.replace("weight", "quant_weight") in names:
        return "; a quant_weight is there instead, but no quantization_config in config.json"
    if name.endswith("quant_weight"):
        return "; quantization_config in config.json says that this weight is quantized"
    if name.endswith("weight_scale"):
        return "; it is the absmax of each output of its quant_weight"
    if "_matmul.activation_scale" in name:
        return "; an int8 KV cache has the absmax of each channel of keys and values, in all layers or in none"
    if name.endswith("activation_scale"):
        return "; w4a8 needs the absmax of the inputs of every expert"
    return ""


def _absmax(tensors: Tensors, spec: CheckpointTensor, *parts: slice) -> NDArray[np.float32]:
    """Return the slices ``parts`` of an absmax, concatenated; without any, all of it."""
    whole = tensors.tensor(spec.name)
    if whole.dtype == np.int8:
        raise _error(tensors, spec, "has type int8; scales are floats")
    values = as_float32(np.concatenate([whole[part] for part in parts or (slice(None),)]))
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        first = int(np.argmax(wrong))
        index = np.concatenate([np.arange(len(whole))[part] for part in parts or (slice(None),)])[first]
        raise _error(
            tensors,
            spec,
            f"has the scale {values[first]} at {index}: negative or not finite; copy the checkpoint again",
        )
    return values


def _error(tensors: Tensors, spec: CheckpointTensor, problem: str) -> StartError:
    return StartError(f"{tensors.file_of(spec.name)}: tensor {spec.name} {problem}")
