"""PaddleOCR-VL: a small ERNIE-4.5 decoder whose rotary pairs are (i, i + head_dim / 2), with a vision tower."""

from __future__ import annotations

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.models.ernie4_5 import Ernie4_5ForCausalLM
from ernie_backend.models.vision.navit import NaViTTower
from ernie_backend.models.vision.transformer import TowerPacker
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_backend.weights.base import ModelWeights
from ernie_kernels.api import Ops


class PaddleOCRVLForConditionalGeneration(Ernie4_5ForCausalLM):
    """The PaddleOCR-VL decoder and its tower."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, ops: Ops, settings: LoadSettings) -> None:
        super().__init__(config, weights, ops, settings)
        if config.vision is not None:
            self.vision = NaViTTower(config.vision, TowerPacker(weights, ops, settings))
