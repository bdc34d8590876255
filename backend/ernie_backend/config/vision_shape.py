"""Sizes of the vision towers, read from config.json."""

from __future__ import annotations

from dataclasses import dataclass

from ernie_backend.config.fields import ConfigFields

CHANNELS = 3
MERGED = 4
"""Patches that become one token: two by two."""
_EPSILON = 1e-6
"""Of the layers' norms, unless config.json says otherwise."""
_COMPUTED = {"spatial_merge_size": 2, "in_channels": CHANNELS, "num_channels": CHANNELS}
_WHERE = "vision_config."
_RESAMPLER_PIXELS = 6177 * 28 * 28
"""Pixels of ERNIE-4.5-VL's largest picture, as its preprocessor is released."""
_OCR_PIXELS = 2_822_400
"""Pixels of PaddleOCR-VL's."""


@dataclass(frozen=True)
class VisionShape:
    """The vision tower, with what joins it to the decoder.

    Attributes:
        depth: layers.
        num_heads: attention heads; divides ``width``.
        width: values of a patch.
        mlp_width: values of a patch inside the MLP.
        patch_size: pixels of a patch's side.
        max_pixels: of the largest picture, unless the settings say otherwise.
        table_side: the table of learned positions has this many rows and columns; 0: there is no table.
        epsilon: added to the variance in the norms of the layers.
    """

    depth: int
    num_heads: int
    width: int
    mlp_width: int
    patch_size: int
    max_pixels: int
    table_side: int = 0
    epsilon: float = 1e-6

    @property
    def patch_values(self) -> int:
        """Values of a patch's pixels."""
        return CHANNELS * self.patch_size**2

    @property
    def head_dim(self) -> int:
        """Values of one head."""
        return self.width // self.num_heads


def resampler_tower(tower: ConfigFields) -> VisionShape:
    """Return ERNIE-4.5-VL's tower.

    Where there is an ``embed_dim``, it is the tower's width, and ``hidden_size`` the decoder's.
    """
    tower.refuse_others({"hidden_act": "quick_gelu", "temporal_merge_size": 2, **_COMPUTED}, _WHERE)
    width = tower.size("embed_dim" if "embed_dim" in tower.values else "hidden_size")
    return VisionShape(
        depth=tower.size("depth"),
        num_heads=_heads(tower, "num_heads", width),
        width=width,
        mlp_width=tower.size("intermediate_size", default=tower.size("mlp_ratio", default=4) * width),
        patch_size=tower.size("patch_size"),
        max_pixels=_RESAMPLER_PIXELS,
        epsilon=tower.positive("rms_norm_eps", _EPSILON),
    )


def ocr_tower(tower: ConfigFields) -> VisionShape:
    """Return PaddleOCR-VL's tower."""
    tower.refuse_others({"hidden_act": "gelu_pytorch_tanh", **_COMPUTED}, _WHERE)
    width, patch = tower.size("hidden_size"), tower.size("patch_size")
    return VisionShape(
        depth=tower.size("num_hidden_layers"),
        num_heads=_heads(tower, "num_attention_heads", width),
        width=width,
        mlp_width=tower.size("intermediate_size"),
        patch_size=patch,
        max_pixels=_OCR_PIXELS,
        table_side=tower.size("image_size") // patch,
        epsilon=tower.positive("layer_norm_eps", _EPSILON),
    )


def _heads(tower: ConfigFields, name: str, width: int) -> int:
    """Return the number of heads; their width is turned in four parts, pairs by row and by column."""
    heads = tower.size(name)
    if width % (4 * heads):
        raise tower.error(f"{_WHERE}{name} {heads} does not cut width {width} into multiples of 4")
    return heads
