"""ERNIE-4.5-VL's DFNRope vision transformer with its variable-resolution resampler.

    spatial  = norm(down(gelu(up(2 x 2 patches side by side))))
    temporal = norm(down(gelu(up(a token of an even frame and that of the odd frame after it, side by side))))
    tokens   = rms_norm(output(temporal))

An image is a pair of the same frame. Patches are in raster order of blocks of 2 x 2.
"""

from __future__ import annotations

from collections.abc import Generator

from ernie_backend.config.vision_shape import VisionShape
from ernie_backend.models.vision.transformer import BLOCK, Affine, TowerPacker, VisionTransformer
from ernie_backend.weights.roles import Role
from ernie_kernels.api import Array
from ernie_kernels.patches import PatchGrid, merged_blocks, merged_frames

_MERGE = 2
_NORM_EPSILON = 1e-6
"""Of the norms in space and time."""
_TOKENS = BLOCK // _MERGE**2
"""Tokens of one piece of the resampler's work."""


class DFNRopeTower:
    """``VisionTower`` of ERNIE-4.5-VL."""

    def __init__(self, shape: VisionShape, packer: TowerPacker, rms_norm_eps: float) -> None:
        self._ops = packer.ops
        self._transformer = VisionTransformer(shape, packer, "quick")
        self._spatial = _Merger(packer, Role.SPATIAL_UP, Role.SPATIAL_DOWN, Role.SPATIAL_NORM)
        self._temporal = _Merger(packer, Role.TEMPORAL_UP, Role.TEMPORAL_DOWN, Role.TEMPORAL_NORM)
        self._output = packer.linear(Role.RESAMPLER_OUTPUT)
        self._norm = packer.vector(Role.RESAMPLER_NORM)
        self._rms_norm_eps = rms_norm_eps

    def encode(self, pixels: Array, grid: tuple[int, int, int]) -> Generator[None, None, Array]:
        """Encode an image or a video, see ``VisionTower.encode``; pairs of frames at a time."""
        frames, height, width = grid
        layout = PatchGrid(height, width, _MERGE)
        merged_frames(frames, 1)  # before any work: an odd number of frames is an error
        count = 2 * max(1, BLOCK // (2 * layout.size))
        tokens = []
        for first in range(0, frames, count):
            some = range(first, min(first + count, frames))
            hidden = yield from self._transformer.encode(pixels, some, layout)
            tokens.append((yield from self._resample(hidden, len(some), layout)))
        return self._ops.concatenate(tokens)

    def _resample(self, hidden: Array, frames: int, layout: PatchGrid) -> Generator[None, None, Array]:
        ops, size = self._ops, layout.size // _MERGE**2
        patches = merged_blocks(layout, _MERGE)
        spatial = []
        for frame in range(frames):
            for begin in range(0, size, _TOKENS):
                some = patches[begin : begin + _TOKENS] + frame * layout.size
                spatial.append(self._spatial.merge(hidden, some))
                yield
        merged = ops.concatenate(spatial)
        pairs = merged_frames(frames, size)
        tokens = []
        for begin in range(0, len(pairs), _TOKENS):
            temporal = self._temporal.merge(merged, pairs[begin : begin + _TOKENS])
            output = ops.linear(temporal, self._output.weight, self._output.bias)
            tokens.append(ops.norm(output, self._norm, self._rms_norm_eps))
            yield
        return ops.concatenate(tokens)


class _Merger:
    """Joins several rows to one: norm(down(gelu(up(rows side by side))))."""

    def __init__(self, packer: TowerPacker, up: Role, down: Role, norm: Role) -> None:
        self._ops = packer.ops
        self._up, self._down = packer.linear(up), packer.linear(down)
        self._norm: Affine = packer.norm(norm)

    def merge(self, x: Array, indices: Array) -> Array:
        ops, up, down = self._ops, self._up, self._down
        joined = ops.merge_rows(x, indices)
        joined = ops.gelu_mlp(joined, up.weight, up.bias, down.weight, down.bias, "erf")
        return ops.layer_norm(joined, self._norm.weight, self._norm.bias, _NORM_EPSILON)
