"""A model as it is planned: its sizes, and into how many parts its checkpoint was cut."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ernie_backend.config.fields import ConfigFields
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.vision_shape import VisionShape
from ernie_backend.weights.checkpoints.presharded import rank_directories


@dataclass(frozen=True)
class ModelShape:
    """What decides how a model is cut and how much memory it takes.

    Attributes:
        config: the model.
        num_parts: directories of ranks that the checkpoint was cut into; 1: it is whole.
    """

    config: ModelConfig
    num_parts: int = 1

    @property
    def vision(self) -> VisionShape | None:
        """The vision tower; None in a text model."""
        return self.config.vision

    @property
    def has_cache_scales(self) -> bool:
        """Whether the checkpoint brings the scales of an int8 KV cache, which it requires then."""
        stored = self.config.quantization_config
        return stored is not None and stored.has_cache_scales


def read_shape(directory: Path, *, is_dummy: bool = False) -> ModelShape:
    """Return the sizes of the model in a directory.

    Args:
        directory: of config.json.
        is_dummy: the weights are random, so directories of ranks do not count.

    Raises:
        StartError: see ``ModelConfig.from_directory`` and ``rank_directories``.
    """
    config = ModelConfig.from_directory(directory)
    return ModelShape(config, num_parts=1 if is_dummy else count_parts(directory))


def count_parts(directory: Path) -> int:
    """Return for how many ranks a checkpoint was cut; 1: it is whole. Raises what ``rank_directories`` does."""
    return max(1, len(rank_directories(directory)))


def shape_of(fields: ConfigFields) -> ModelShape:
    """Return the sizes of a whole model with these fields in config.json; raises what ``ModelConfig`` does."""
    return ModelShape(ModelConfig.from_fields(fields))
