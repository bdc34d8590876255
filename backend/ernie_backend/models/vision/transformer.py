"""A pre-norm vision transformer over patches of any resolution, which attend within their frame.

    x = embed(pixels) (+ positions)
    for each layer:  x += output(attention(qkv(norm(x))));  x += down(gelu(up(norm(x))))
    return norm(x)

Queries and keys are rotated by the row and the column of their patch. Patches are taken in blocks, so that a
caller can stop between any two pieces of work; a result does not depend on the cuts.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from ernie_backend.config.vision_shape import VisionShape
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_backend.weights.base import ModelWeights
from ernie_backend.weights.roles import Role
from ernie_kernels.api import Array, Gelu, Linear, Ops, Rotary
from ernie_kernels.formats import ActivationType, Bfloat16Weight
from ernie_kernels.patches import PatchCacheSpec, PatchGrid

BLOCK = 1024
"""Patches that go through half a layer in one piece of work."""
_SMALLEST_BLOCK = 64
_MOST_SCORES = BLOCK * 4096
"""Scores of one head in a piece: patches of large frames are taken in smaller blocks."""
_THETA = 10000.0


@dataclass(frozen=True)
class Affine:
    """A packed Linear or the weight of a LayerNorm, and its bias; None: it has none."""

    weight: Linear
    bias: Linear | None


@dataclass(frozen=True)
class VisionLayer:
    """The packed weights of one layer; ``next_norm`` is the norm that follows its MLP."""

    qkv: Affine
    output: Affine
    mlp_norm: Affine
    up: Affine
    down: Affine
    next_norm: Affine


@dataclass(frozen=True)
class TowerPacker:
    """Packs the weights of a tower one at a time.

    Bfloat16 weights meet bfloat16 activations unless float32 is set: a tower has many rows to compute, where
    float32 costs most, and no int16 products with such weights.
    """

    weights: ModelWeights
    ops: Ops
    settings: LoadSettings

    def linear(self, role: Role, layer: int = 0, *, has_bias: bool = True) -> Affine:
        """Pack a matrix and its bias."""
        weight = self.weights.linear(role, layer)
        activation = self.settings.activation_dtype
        if isinstance(weight, Bfloat16Weight) and activation is not ActivationType.FLOAT32:
            activation = ActivationType.BFLOAT16
        bias = self.vector(role.bias, layer) if has_bias else None
        return Affine(self.ops.pack_linear(weight, activation), bias)

    def norm(self, role: Role, layer: int = 0) -> Affine:
        """Pack the weight and the bias of a LayerNorm."""
        return Affine(self.vector(role, layer), self.vector(role.bias, layer))

    def vector(self, role: Role, layer: int = 0) -> Linear:
        """Pack a vector."""
        return self.ops.pack_vector(self.weights.vector(role, layer))

    @property
    def attention_dtype(self) -> str:
        """How queries, keys and values are rounded: float32 in a model that rounds nothing."""
        is_float32 = self.settings.dtype == "float32" and self.settings.quantization is None
        is_exact = is_float32 or self.settings.activation_dtype is ActivationType.FLOAT32
        return "float32" if is_exact else "bfloat16"


class VisionTransformer:
    """The layers of a tower, their weights packed by ``ops``."""

    def __init__(self, shape: VisionShape, packer: TowerPacker, gelu: Gelu) -> None:
        self.shape = shape
        self._ops = packer.ops
        self._gelu: Gelu = gelu
        self._attention_dtype = packer.attention_dtype
        self._patch = packer.linear(Role.VISION_PATCH, has_bias=shape.table_side > 0)
        self._positions = packer.vector(Role.VISION_POSITIONS) if shape.table_side else None
        self._first_norm = packer.norm(Role.VISION_ATTENTION_NORM, 0)
        self._layers = tuple(self._pack_layer(packer, layer) for layer in range(shape.depth))

    def encode(self, pixels: Array, frames: range, grid: PatchGrid) -> Generator[None, None, Array]:
        """Return the last norm of the patches of some frames, ``[len(frames) * grid.size, width]``.

        Yields after every piece of work. ``pixels`` are those of all frames.
        """
        ops, shape = self._ops, self.shape
        rotary = ops.pack_axial_rotary(grid, shape.head_dim, _THETA)
        rows, first = len(frames) * grid.size, frames.start * grid.size
        cuts = list(blocks(rows, grid.size))
        stream: list[tuple[Array, Array]] = []  # the residual stream of each block, and its norm
        for begin, end in cuts:
            embedded = self._embed(ops.rows(pixels, first + begin, first + end), grid, begin)
            norm = ops.layer_norm(embedded, self._first_norm.weight, self._first_norm.bias, shape.epsilon)
            stream.append((embedded, norm))
            yield
        cache = ops.allocate_patches(
            PatchCacheSpec(rows, grid.size, shape.num_heads, shape.head_dim, self._attention_dtype)
        )
        for layer in self._layers:
            yield from self._run_layer(layer, stream, cuts, rotary, cache)
        return ops.concatenate([norm for _, norm in stream])

    def _embed(self, pixels: Array, grid: PatchGrid, begin: int) -> Array:
        embedded = self._ops.linear(pixels, self._patch.weight, self._patch.bias)
        if self._positions is None:
            return embedded
        return self._ops.add_positions(embedded, self._positions, grid, begin)

    def _run_layer(
        self,
        layer: VisionLayer,
        stream: list[tuple[Array, Array]],
        cuts: list[tuple[int, int]],
        rotary: Rotary,
        cache: Array,
    ) -> Generator[None, None, None]:
        """Replace each block of ``stream`` by what it is after a layer."""
        ops = self._ops
        for (begin, _), (_, norm) in zip(cuts, stream, strict=True):
            ops.append_patches(ops.linear(norm, layer.qkv.weight, layer.qkv.bias), rotary, cache, begin)
            yield
        for index, (begin, end) in enumerate(cuts):
            attended = ops.attend_patches(cache, begin, end)
            attended = ops.linear(attended, layer.output.weight, layer.output.bias)
            residual, norm = self._add_norm(stream[index][0], attended, layer.mlp_norm)
            yield
            up, down = layer.up, layer.down
            transformed = ops.gelu_mlp(norm, up.weight, up.bias, down.weight, down.bias, self._gelu)
            stream[index] = self._add_norm(residual, transformed, layer.next_norm)
            yield

    def _add_norm(self, x: Array, delta: Array, norm: Affine) -> tuple[Array, Array]:
        return self._ops.add_layer_norm(x, delta, norm.weight, norm.bias, self.shape.epsilon)

    def _pack_layer(self, packer: TowerPacker, layer: int) -> VisionLayer:
        is_last = layer == self.shape.depth - 1
        next_norm = (Role.VISION_FINAL_NORM, 0) if is_last else (Role.VISION_ATTENTION_NORM, layer + 1)
        return VisionLayer(
            qkv=packer.linear(Role.VISION_QKV, layer),
            output=packer.linear(Role.VISION_OUTPUT, layer),
            mlp_norm=packer.norm(Role.VISION_MLP_NORM, layer),
            up=packer.linear(Role.VISION_UP, layer),
            down=packer.linear(Role.VISION_DOWN, layer),
            next_norm=packer.norm(*next_norm),
        )


def blocks(rows: int, frame: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of blocks of ``rows`` patches in frames of ``frame``: bounded pieces of work."""
    size = max(_SMALLEST_BLOCK, min(BLOCK, _MOST_SCORES // frame))
    for begin in range(0, rows, size):
        yield begin, min(begin + size, rows)
