"""ERNIE-4.5-VL: the ERNIE-4.5 decoder, with a vision tower and experts for the tokens of media.

The decoder is that of text; what differs is in the packed weights and in the batch: layers have a bank of
experts for media, rotary embeddings three axes, and rows of media come from the tower.
"""

from __future__ import annotations

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.models.ernie4_5 import Ernie4_5ForCausalLM
from ernie_backend.models.vision.dfnrope import DFNRopeTower
from ernie_backend.models.vision.transformer import TowerPacker
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_backend.weights.base import ModelWeights
from ernie_kernels.api import Ops


class Ernie4_5_VLMoeForConditionalGeneration(Ernie4_5ForCausalLM):  # noqa: N801 - the name the checkpoints use
    """The ERNIE-4.5-VL decoder and its tower."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, ops: Ops, settings: LoadSettings) -> None:
        super().__init__(config, weights, ops, settings)
        if config.vision is not None:
            packer = TowerPacker(weights, ops, settings)
            self.vision = DFNRopeTower(config.vision, packer, config.rms_norm_eps)
