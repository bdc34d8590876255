"""Loads a model: the model file of its architecture, over the weights of its checkpoint."""

from __future__ import annotations

import importlib
from pathlib import Path

from ernie_backend.config.architectures import ARCHITECTURES
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.models.base import Model
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_backend.weights.base import ModelWeights
from ernie_backend.weights.dummy import DummyWeights
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.sharding import Shard
from ernie_kernels.api import Ops

_WHOLE = Shard()


def load_model(
    directory: Path, config: ModelConfig, ops: Ops, settings: LoadSettings, shard: Shard = _WHOLE
) -> Model:
    """Read the weights in ``directory`` and return the model that ``config.architecture`` names, or a shard.

    Raises:
        StartError: the weights are missing, damaged, of other shapes than ``config`` says, or the settings ask
            for a format that does not exist.
    """
    if settings.is_dummy:
        random_weights = DummyWeights(
            config, settings.dtype, settings.quantization, shard, has_int8_head=settings.has_int8_head
        )
        return build_model(config, random_weights, ops, settings)
    with CheckpointWeights.open(
        directory,
        config,
        settings.dtype,
        settings.quantization,
        settings.weight_cache,
        shard,
        has_int8_head=settings.has_int8_head,
    ) as weights:
        return build_model(config, weights, ops, settings)


def build_model(config: ModelConfig, weights: ModelWeights, ops: Ops, settings: LoadSettings) -> Model:
    """Return the model that ``config.architecture`` names, over ``weights`` and ``ops``."""
    module, name = ARCHITECTURES[config.architecture].model.split(":")
    model: Model = getattr(importlib.import_module(module), name)(config, weights, ops, settings)
    return model
