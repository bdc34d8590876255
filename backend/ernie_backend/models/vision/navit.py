"""PaddleOCR-VL's vision transformer (SigLIP with patches of any resolution, as NaViT) with its projector.

    tokens = down(gelu(up(2 x 2 patches side by side, each after a norm)))

Patches are in raster order, and have learned positions in addition to the rotary ones.
"""

from __future__ import annotations

from collections.abc import Generator

from ernie_backend.config.vision_shape import VisionShape
from ernie_backend.models.vision.transformer import BLOCK, TowerPacker, VisionTransformer
from ernie_backend.weights.roles import Role
from ernie_kernels.api import Array
from ernie_kernels.patches import PatchGrid, merged_blocks

_MERGE = 2
_NORM_EPSILON = 1e-5
"""Of the projector's norm."""
_TOKENS = BLOCK // _MERGE**2
"""Tokens of one piece of the projector's work."""


class NaViTTower:
    """``VisionTower`` of PaddleOCR-VL."""

    def __init__(self, shape: VisionShape, packer: TowerPacker) -> None:
        self._ops = packer.ops
        self._transformer = VisionTransformer(shape, packer, "tanh")
        self._norm = packer.norm(Role.PROJECTOR_NORM)
        self._up, self._down = packer.linear(Role.PROJECTOR_UP), packer.linear(Role.PROJECTOR_DOWN)

    def encode(self, pixels: Array, grid: tuple[int, int, int]) -> Generator[None, None, Array]:
        """Encode an image, see ``VisionTower.encode``."""
        frames, height, width = grid
        if frames != 1:
            raise ValueError(f"PaddleOCR-VL encodes images, not {frames} frames")
        ops, layout = self._ops, PatchGrid(height, width)
        patches = merged_blocks(layout, _MERGE)
        hidden = yield from self._transformer.encode(pixels, range(1), layout)
        hidden = ops.layer_norm(hidden, self._norm.weight, self._norm.bias, _NORM_EPSILON)
        tokens, up, down = [], self._up, self._down
        for begin in range(0, len(patches), _TOKENS):
            joined = ops.merge_rows(hidden, patches[begin : begin + _TOKENS])
            tokens.append(ops.gelu_mlp(joined, up.weight, up.bias, down.weight, down.bias, "erf"))
            yield
        return ops.concatenate(tokens)
