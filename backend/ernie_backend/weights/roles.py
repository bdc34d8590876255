"""The roles of weights in a decoder and a vision tower, whatever a checkpoint calls them."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Role(enum.Enum):
    """The role of a weight. Matrices are ``[N, K]``: N outputs, K inputs.

    H hidden size, D head dim, I intermediate size, V vocabulary, E experts, X width of one expert, S width of
    all shared experts. In a vision tower: W width, M width of the MLP, P pixels of a patch's side.
    """

    EMBEDDING = "embedding"  # [V, H], the lookup table
    INPUT_NORM = "input norm"  # [H]
    QKV = "qkv"  # [(heads + 2 * kv_heads) * D, H]: all queries, all keys, all values
    OUTPUT = "attention output"  # [H, heads * D]
    POST_ATTENTION_NORM = "post-attention norm"  # [H]
    GATE_UP = "gate and up"  # [2I, H]: all gate rows first
    DOWN = "down"  # [H, I]
    ROUTER = "router"  # [E, H]
    VISION_ROUTER = "vision router"  # [E, H], of the experts of media
    ROUTER_BIAS = (
        "router bias"  # [E], added to the scores for the choice of experts only; [2E]: text, then media
    )
    EXPERT_GATE_UP = (
        "expert's gate and up"  # [2X, H]: all gate rows first; E to 2E - 1 are the experts of media
    )
    EXPERT_DOWN = "expert's down"  # [H, X]
    SHARED_GATE_UP = "shared experts' gate and up"  # [2S, H]: all gate rows first
    SHARED_DOWN = "shared experts' down"  # [H, S]
    FINAL_NORM = "final norm"  # [H]
    HEAD = "output head"  # [V, H]; absent from a checkpoint that ties it to the embedding

    VISION_PATCH = "patch embedding"  # [W, 3 * P * P], pixels channel by channel
    VISION_PATCH_BIAS = "patch embedding's bias"  # [W], PaddleOCR-VL
    VISION_POSITIONS = "position table"  # [side * side * W], row by row; PaddleOCR-VL
    VISION_ATTENTION_NORM = "tower's attention norm"  # [W]
    VISION_ATTENTION_NORM_BIAS = "tower's attention norm's bias"  # [W]
    VISION_QKV = "tower's qkv"  # [3W, W]: all queries, all keys, all values
    VISION_QKV_BIAS = "tower's qkv's bias"  # [3W]
    VISION_OUTPUT = "tower's attention output"  # [W, W]
    VISION_OUTPUT_BIAS = "tower's attention output's bias"  # [W]
    VISION_MLP_NORM = "tower's MLP norm"  # [W]
    VISION_MLP_NORM_BIAS = "tower's MLP norm's bias"  # [W]
    VISION_UP = "tower's up"  # [M, W]
    VISION_UP_BIAS = "tower's up's bias"  # [M]
    VISION_DOWN = "tower's down"  # [W, M]
    VISION_DOWN_BIAS = "tower's down's bias"  # [W]
    VISION_FINAL_NORM = "tower's final norm"  # [W]
    VISION_FINAL_NORM_BIAS = "tower's final norm's bias"  # [W]
    SPATIAL_UP = "spatial up"  # [4W, 4W], ERNIE-4.5-VL's resampler: two by two patches
    SPATIAL_UP_BIAS = "spatial up's bias"  # [4W]
    SPATIAL_DOWN = "spatial down"  # [4W, 4W]
    SPATIAL_DOWN_BIAS = "spatial down's bias"  # [4W]
    SPATIAL_NORM = "spatial norm"  # [4W]
    SPATIAL_NORM_BIAS = "spatial norm's bias"  # [4W]
    TEMPORAL_UP = "temporal up"  # [4W, 8W]: pairs of frames
    TEMPORAL_UP_BIAS = "temporal up's bias"  # [4W]
    TEMPORAL_DOWN = "temporal down"  # [4W, 4W]
    TEMPORAL_DOWN_BIAS = "temporal down's bias"  # [4W]
    TEMPORAL_NORM = "temporal norm"  # [4W]
    TEMPORAL_NORM_BIAS = "temporal norm's bias"  # [4W]
    RESAMPLER_OUTPUT = "resampler's output"  # [H, 4W]
    RESAMPLER_OUTPUT_BIAS = "resampler's output's bias"  # [H]
    RESAMPLER_NORM = "resampler's norm"  # [H], RMSNorm
    PROJECTOR_NORM = "projector's norm"  # [W], PaddleOCR-VL
    PROJECTOR_NORM_BIAS = "projector's norm's bias"  # [W]
    PROJECTOR_UP = "projector's up"  # [4W, 4W]: two by two patches
    PROJECTOR_UP_BIAS = "projector's up's bias"  # [4W]
    PROJECTOR_DOWN = "projector's down"  # [H, 4W]
    PROJECTOR_DOWN_BIAS = "projector's down's bias"  # [H]

    @property
    def is_vector(self) -> bool:
        """Whether it is a norm, a bias or a position table, always in float32; otherwise it is a matrix."""
        return self.name.endswith(("_NORM", "_BIAS", "_POSITIONS"))

    @property
    def is_tower(self) -> bool:
        """Whether it belongs to the vision tower, or to what joins it to the decoder."""
        return self is not Role.VISION_ROUTER and self.name.startswith(_TOWER)

    @property
    def bias(self) -> Role:
        """The bias that goes with a matrix or norm of a tower."""
        return Role[f"{self.name}_BIAS"]


_TOWER = ("VISION_", "SPATIAL_", "TEMPORAL_", "RESAMPLER_", "PROJECTOR_")
ROUTERS = frozenset({Role.ROUTER, Role.VISION_ROUTER})
ROUTED = frozenset({Role.EXPERT_GATE_UP, Role.EXPERT_DOWN})
"""The routed experts: most of a model, and the least of what a token reads."""
SHARED = frozenset({Role.SHARED_GATE_UP, Role.SHARED_DOWN})


class WeightKey(NamedTuple):
    """One weight of a model; layer and expert are 0 where it belongs to none."""

    role: Role
    layer: int = 0
    expert: int = 0
