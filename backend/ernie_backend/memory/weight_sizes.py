"""Bytes of a model's weights on one rank, in the formats that ``weights.placement`` gives them.

A rank has a slice of every Linear: of the outputs of queries, keys, values, gate and up, of the inputs of the
Linears that follow them, of the rows of the vocabulary. Norms, routers and the vision tower it has whole. With
expert parallelism it has whole experts. This module must not know names or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ernie_backend.devices.device import Device
from ernie_backend.memory.plan_settings import PlanSettings, dense_ranks
from ernie_backend.model_shape import ModelShape
from ernie_backend.weights.placement import WeightFormat, weight_format
from ernie_backend.weights.roles import Role

_GROUPS: Mapping[Role, str] = {
    Role.EMBEDDING: "embeddings",
    Role.HEAD: "embeddings",
    Role.QKV: "attention",
    Role.OUTPUT: "attention",
    Role.ROUTER: "routers and norms",
    Role.EXPERT_GATE_UP: "routed experts",
    Role.EXPERT_DOWN: "routed experts",
}
_NORMS, _MLPS, _VISION = "routers and norms", "MLPs", "vision tower"


@dataclass(frozen=True)
class _Matrix:
    """Equal ``[outputs, inputs]`` matrices, ``count`` of them, as one rank holds them."""

    role: Role
    outputs: int
    inputs: int
    count: int


def weight_bytes(shape: ModelShape, settings: PlanSettings, device: Device) -> dict[str, int]:
    """Return the bytes of one rank's weights by group, scales included; the sum is all of them."""
    bytes_of: dict[str, int] = {}
    for matrix in _matrices(shape, settings):
        kept = _format(matrix.role, shape, settings, device)
        group = _GROUPS.get(matrix.role, _MLPS)
        size = matrix.count * _bytes(kept, matrix, device.int4_bits)
        bytes_of[group] = bytes_of.get(group, 0) + size
    bytes_of[_NORMS] = bytes_of.get(_NORMS, 0) + 4 * _vector_values(shape)
    if shape.vision is not None:
        bytes_of[_VISION] = 2 * shape.vision.parameters
    return bytes_of


def cast_bytes(shape: ModelShape, settings: PlanSettings, device: Device) -> int:
    """Return the bytes of the largest quantized matrix in float32, as a product needs it: whole and cut up."""
    if settings.quantization is None or not device.casts_weights:
        return 0
    return 2 * 4 * max(matrix.outputs * matrix.inputs for matrix in _matrices(shape, settings))


def _bytes(kept: WeightFormat, matrix: _Matrix, int4_bits: int) -> int:
    """Return the bytes of one matrix with its float32 scales, one an output."""
    if kept is WeightFormat.FLOAT32:
        return 4 * matrix.outputs * matrix.inputs
    if kept is WeightFormat.BFLOAT16:
        return 2 * matrix.outputs * matrix.inputs
    bits = 8 if kept is WeightFormat.INT8 else int4_bits
    return matrix.outputs * (-(-matrix.inputs * bits // 8) + 4)


def _format(role: Role, shape: ModelShape, settings: PlanSettings, device: Device) -> WeightFormat:
    asked = settings.quantization
    is_head = role is Role.HEAD or (role is Role.EMBEDDING and shape.is_tied)
    if asked is not None and is_head and not device.has_int8_head:
        return WeightFormat.BFLOAT16
    return weight_format(role, settings.dtype, asked, is_tied=shape.is_tied)


def _matrices(shape: ModelShape, settings: PlanSettings) -> Iterator[_Matrix]:
    hidden, ranks = shape.hidden_size, settings.tensor_parallel_size
    vocabulary = -(-shape.vocab_size // ranks)
    yield _Matrix(Role.EMBEDDING, vocabulary, hidden, 1)
    if not shape.is_tied:
        yield _Matrix(Role.HEAD, vocabulary, hidden, 1)
    ranks = dense_ranks(shape, settings)
    queries = shape.num_heads * shape.head_dim // ranks
    keys = shape.num_kv_heads * shape.head_dim // ranks
    yield _Matrix(Role.QKV, queries + 2 * keys, hidden, shape.num_layers)
    yield _Matrix(Role.OUTPUT, hidden, queries, shape.num_layers)
    width = shape.intermediate_size // ranks
    yield _Matrix(Role.GATE_UP, 2 * width, hidden, shape.dense_layers)
    yield _Matrix(Role.DOWN, hidden, width, shape.dense_layers)
    yield from _expert_matrices(shape, settings)


def _expert_matrices(shape: ModelShape, settings: PlanSettings) -> Iterator[_Matrix]:
    if shape.experts is None:
        return
    hidden, ranks = shape.hidden_size, settings.tensor_parallel_size
    for bank in shape.experts.banks:
        is_whole = settings.enable_expert_parallel
        width = bank.width if is_whole else bank.width // ranks
        count = bank.layers * (bank.count // ranks if is_whole else bank.count)
        yield _Matrix(Role.EXPERT_GATE_UP, 2 * width, hidden, count)
        yield _Matrix(Role.EXPERT_DOWN, hidden, width, count)
        yield _Matrix(Role.ROUTER, bank.count, hidden, bank.layers)
    shared = shape.experts.shared_width // dense_ranks(shape, settings)
    if shared:
        yield _Matrix(Role.SHARED_GATE_UP, 2 * shared, hidden, shape.experts.layers)
        yield _Matrix(Role.SHARED_DOWN, hidden, shared, shape.experts.layers)


def _vector_values(shape: ModelShape) -> int:
    """Return how many float32 values norms and the biases of routers have."""
    norms = (2 * shape.num_layers + 1) * shape.hidden_size
    banks = shape.experts.banks if shape.experts else ()
    return norms + sum(bank.count * bank.layers for bank in banks)
