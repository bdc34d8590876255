"""Random tensors in place of a checkpoint: to measure a model, or to plan for it, with config.json alone.

Norms are one. Every other value is a bfloat16 of random sign and mantissa with magnitude in [2^-6, 2^-5): of
the size of trained weights, and as fast to make as random bits. A tensor depends on its name and shape only, so
every start makes the same model. This module must not know formats or backends.
"""

from __future__ import annotations

import zlib
from collections.abc import KeysView
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ernie_backend.model_config import ModelConfig
from ernie_backend.weights.names import huggingface_recipes

_SIGN_AND_MANTISSA = np.uint16(0x807F)
_EXPONENT = np.uint16(0x3C80)  # 2^-6
_ONE = np.uint16(0x3F80)


class DummyCheckpoint:
    """A checkpoint in the HF layout that is made when it is read; has the methods of ``Checkpoint``."""

    def __init__(self, directory: Path, config: ModelConfig) -> None:
        self.directory = directory
        recipes = huggingface_recipes(config).values()
        self._shapes = {tensor.name: tensor.shape for recipe in recipes for tensor in recipe.tensors}

    @property
    def names(self) -> KeysView[str]:
        """Names of all tensors."""
        return self._shapes.keys()

    def file_of(self, name: str) -> Path:
        """Return the directory: the tensor ``name`` is in no file."""
        return self.directory / name

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._shapes[name]

    def tensor(self, name: str) -> NDArray[np.generic]:
        """Return a tensor's bfloat16 bits as uint16."""
        shape = self._shapes[name]
        if len(shape) == 1:
            return np.full(shape, _ONE)
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        bits = generator.integers(0, 1 << 16, shape, np.uint16)
        bits &= _SIGN_AND_MANTISSA
        bits |= _EXPONENT
        return bits

    def close(self) -> None:
        """Do nothing: there is no file."""
