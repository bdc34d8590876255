"""Loads a model: the model file of its architecture, over the weights of its checkpoint.

This module must not know what is inside a model or a checkpoint.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from ernie_backend.architectures import ARCHITECTURES
from ernie_backend.errors import StartError
from ernie_backend.model_config import ModelConfig
from ernie_backend.models.base import LoadSettings, Model
from ernie_backend.weights.dummy import DummyWeights
from ernie_backend.weights.loader import CheckpointWeights
from ernie_kernels.api import Ops


def load_model(directory: Path, config: ModelConfig, ops: Ops, settings: LoadSettings) -> Model:
    """Read the weights in ``directory`` and return the model that ``config.architecture`` names.

    Raises:
        StartError: the weights are missing, damaged, of other shapes than ``config`` says, or the settings ask
            for a format that does not exist.
    """
    path = ARCHITECTURES[config.architecture].model
    if path is None:
        raise StartError(f"{directory}: {config.architecture} can be planned, but not served yet")
    module, name = path.split(":")
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
