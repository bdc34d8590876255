"""Architecture -> model file, imported when it is needed.

This module must not know what is inside a model or a checkpoint.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from ernie_backend.errors import StartError
from ernie_backend.model_config import ModelConfig
from ernie_backend.models.base import LoadSettings, Model
from ernie_backend.weights.dummy import DummyWeights
from ernie_backend.weights.loader import CheckpointWeights
from ernie_kernels.api import Ops

__all__ = ["LoadSettings", "Model", "load_model"]

_MODELS: Mapping[str, tuple[str, str]] = {
    "Ernie4_5ForCausalLM": ("ernie_backend.models.ernie4_5", "Ernie4_5ForCausalLM"),
    "Ernie4_5_MoeForCausalLM": ("ernie_backend.models.ernie4_5", "Ernie4_5ForCausalLM"),
}


def load_model(directory: Path, config: ModelConfig, ops: Ops, settings: LoadSettings) -> Model:
    """Read the weights in ``directory`` and return the model that ``config.architecture`` names.

    Raises:
        StartError: the weights are missing, damaged, of other shapes than ``config`` says, or the settings ask
            for a format that does not exist.
    """
    if config.architecture not in _MODELS:
        raise StartError(f"no model for architecture {config.architecture!r}; known are {', '.join(_MODELS)}")
    module, name = _MODELS[config.architecture]
    build = getattr(importlib.import_module(module), name)
    if settings.is_dummy:
        random_weights = DummyWeights(config, settings.dtype, settings.quantization, settings.shard)
        dummy: Model = build(config, random_weights, ops, settings)
        return dummy
    with CheckpointWeights.open(
        directory, config, settings.dtype, settings.quantization, settings.weight_cache, settings.shard
    ) as weights:
        model: Model = build(config, weights, ops, settings)
        return model
