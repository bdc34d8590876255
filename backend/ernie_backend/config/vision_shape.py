"""Sizes and parameters of the vision towers: Linears with biases, norms with weight and bias."""

from __future__ import annotations

from dataclasses import dataclass

from ernie_backend.config.fields import ConfigFields

_CHANNELS = 3
_MERGED = 4
"""Patches that become one token: two by two."""
_EPSILON = 1e-6
"""Of the layers' norms, unless config.json says otherwise."""
_COMPUTED = {"spatial_merge_size": 2, "in_channels": _CHANNELS, "num_channels": _CHANNELS}
_WHERE = "vision_config."
_RESAMPLER_PIXELS = 6177 * 28 * 28
"""Pixels of ERNIE-4.5-VL's largest picture, as its preprocessor is released."""
_OCR_PIXELS = 2_822_400
"""Pixels of PaddleOCR-VL's."""


@dataclass(frozen=True)
class VisionShape:
    """The vision tower, with what joins it to the decoder.

    Attributes:
        parameters: of all of it.
        depth: layers.
        num_heads: attention heads; divides ``width``.
        width: values of a patch.
        mlp_width: values of a patch inside the MLP.
        patch_size: pixels of a patch's side.
        max_pixels: of the largest picture, unless the settings say otherwise.
        table_side: the table of learned positions has this many rows and columns; 0: there is no table.
        epsilon: added to the variance in the norms of the layers.
    """

    parameters: int
    depth: int
    num_heads: int
    width: int
    mlp_width: int
    patch_size: int
    max_pixels: int
    table_side: int = 0
    epsilon: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Values of one head."""
        return self.width // self.num_heads


def resampler_tower(tower: ConfigFields, hidden: int) -> VisionShape:
    """Return ERNIE-4.5-VL's tower (pre-norm ViT, patches embedded without a bias) and its resampler.

    Resampler: two Linears and a norm in space, two and a norm in time, a Linear to the decoder, an RMSNorm.
    Where there is an ``embed_dim``, it is the tower's width, and ``hidden_size`` the decoder's.
    """
    tower.refuse_others({"hidden_act": "quick_gelu", "temporal_merge_size": 2, **_COMPUTED}, _WHERE)
    width = tower.size("embed_dim" if "embed_dim" in tower.values else "hidden_size")
    depth, patch = tower.size("depth"), tower.size("patch_size")
    ratio = tower.size("mlp_ratio", default=4)
    mlp = tower.size("intermediate_size", default=ratio * width)
    vit = depth * _block(width, mlp) + _CHANNELS * patch**2 * width + 2 * width
    joined = _MERGED * width
    space = 2 * _linear(joined, joined) + 2 * joined
    time = _linear(2 * joined, joined) + _linear(joined, joined) + 2 * joined
    resampler = space + time + _linear(joined, hidden) + hidden
    return VisionShape(
        parameters=vit + resampler,
        depth=depth,
        num_heads=_heads(tower, "num_heads", width),
        width=width,
        mlp_width=mlp,
        patch_size=patch,
        max_pixels=_RESAMPLER_PIXELS,
        epsilon=tower.positive("rms_norm_eps", _EPSILON),
    )


def ocr_tower(tower: ConfigFields, hidden: int) -> VisionShape:
    """Return PaddleOCR-VL's tower (SigLIP with a position table) and its projector of two Linears."""
    tower.refuse_others({"hidden_act": "gelu_pytorch_tanh", **_COMPUTED}, _WHERE)
    width, depth, patch = tower.size("hidden_size"), tower.size("num_hidden_layers"), tower.size("patch_size")
    mlp = tower.size("intermediate_size")
    side = tower.size("image_size") // patch
    vit = depth * _block(width, mlp) + _linear(_CHANNELS * patch**2, width) + side**2 * width + 2 * width
    joined = _MERGED * width
    projector = 2 * width + _linear(joined, joined) + _linear(joined, hidden)
    return VisionShape(
        parameters=vit + projector,
        depth=depth,
        num_heads=_heads(tower, "num_attention_heads", width),
        width=width,
        mlp_width=mlp,
        patch_size=patch,
        max_pixels=_OCR_PIXELS,
        table_side=side,
        epsilon=tower.positive("layer_norm_eps", _EPSILON),
    )


def _heads(tower: ConfigFields, name: str, width: int) -> int:
    """Return the number of heads; their width is turned in four parts, pairs by row and by column."""
    heads = tower.size(name)
    if width % (4 * heads):
        raise tower.error(f"{_WHERE}{name} {heads} does not cut width {width} into multiples of 4")
    return heads


def _block(width: int, mlp: int) -> int:
    """Return the parameters of a block: queries, keys, values, output, two Linears of the MLP, two norms."""
    return 4 * _linear(width, width) + _linear(width, mlp) + _linear(mlp, width) + 4 * width


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs
