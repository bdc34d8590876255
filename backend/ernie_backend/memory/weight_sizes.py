"""Bytes of a model's weights on one rank: those of the loader's recipes, cut and formatted as the loader does.

The first rank is planned, which has at least what the others have. The vision tower it has whole, in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ernie_backend.architectures import HUGGINGFACE
from ernie_backend.devices.device import Device
from ernie_backend.memory.model_shape import ModelShape
from ernie_backend.memory.plan_settings import PlanSettings
from ernie_backend.weights.precision import Precision, WeightFormat
from ernie_backend.weights.recipes import blocks
from ernie_backend.weights.roles import Role
from ernie_backend.weights.sharding import experts_of, part_of

_NORMS, _MLPS, _VISION = "routers and norms", "MLPs", "vision tower"
_GROUPS: Mapping[Role, str] = {
    Role.EMBEDDING: "embeddings",
    Role.HEAD: "embeddings",
    Role.QKV: "attention",
    Role.OUTPUT: "attention",
    Role.GATE_UP: _MLPS,
    Role.DOWN: _MLPS,
    Role.SHARED_GATE_UP: _MLPS,
    Role.SHARED_DOWN: _MLPS,
    Role.EXPERT_GATE_UP: "routed experts",
    Role.EXPERT_DOWN: "routed experts",
    Role.ROUTER: _NORMS,
    Role.ROUTER_BIAS: _NORMS,
    Role.INPUT_NORM: _NORMS,
    Role.POST_ATTENTION_NORM: _NORMS,
    Role.FINAL_NORM: _NORMS,
}
"""What a plan shows, in its order."""


def weight_bytes(shape: ModelShape, settings: PlanSettings, device: Device) -> dict[str, int]:
    """Return the bytes of one rank's weights by group, scales included; the sum is all of them."""
    precision = Precision(settings.dtype, settings.quantization, shape.config.tie_word_embeddings)
    sizes: dict[Role, int] = {}
    for role, part, count in _parts(shape, settings):
        kept = _format(role, precision, device)
        sizes[role] = sizes.get(role, 0) + count * _bytes(kept, part, device.int4_bits)
    bytes_of: dict[str, int] = {}
    for role, group in _GROUPS.items():
        if role in sizes:
            bytes_of[group] = bytes_of.get(group, 0) + sizes[role]
    return bytes_of | ({_VISION: 2 * shape.vision.parameters} if shape.vision else {})


def cast_bytes(shape: ModelShape, settings: PlanSettings, device: Device) -> int:
    """Return the bytes of the largest quantized matrix in float32, as a product needs it: whole and cut up."""
    if settings.quantization is None or not device.casts_weights:
        return 0
    return 2 * 4 * max(part[0] * part[1] for _, part, _ in _parts(shape, settings))


def _parts(shape: ModelShape, settings: PlanSettings) -> Iterator[tuple[Role, tuple[int, int], int]]:
    """Yield what the first rank has: equal ``[outputs, inputs]`` parts of a role's weights, and how many."""
    config, shard = shape.config, settings.shard(shape.config)
    for block in blocks(config, HUGGINGFACE):  # in every layout they are as large
        for role, recipe in block.recipes.items():
            count = block.num_layers * len(experts_of(role, len(block.experts), shard))
            outputs, inputs = recipe.shape if len(recipe.shape) == 2 else (1, *recipe.shape)
            yield role, part_of(role, (outputs, inputs), config, shard).shape, count


def _format(role: Role, precision: Precision, device: Device) -> WeightFormat:
    if role.is_vector:
        return WeightFormat.FLOAT32
    is_head = role is Role.HEAD or (role is Role.EMBEDDING and precision.is_tied)
    if precision.quantization is not None and is_head and not device.has_int8_head:
        return WeightFormat.BFLOAT16
    return precision.format_of(role)


def _bytes(kept: WeightFormat, part: tuple[int, int], int4_bits: int) -> int:
    """Return the bytes of one part with its float32 scales, one an output."""
    outputs, inputs = part
    if kept is WeightFormat.FLOAT32:
        return 4 * outputs * inputs
    if kept is WeightFormat.BFLOAT16:
        return 2 * outputs * inputs
    bits = 8 if kept is WeightFormat.INT8 else int4_bits
    return outputs * (-(-inputs * bits // 8) + 4)
