"""Random weights in place of a checkpoint: to measure a model, or to plan for it, with config.json alone.

They are made in their final format, as fast as random bits: a float is a bfloat16 of random sign and
mantissa with magnitude in [2^-6, 2^-5), of the size of trained weights; a quantized matrix has random codes and
scales that give it the same largest magnitude. Norms are one, biases zero. A weight depends on its
role, layer, expert, rank and shape only, so every start makes the same model.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
from numpy.typing import NDArray

from ernie_backend.config.architectures import ARCHITECTURES
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.weights.base import ModelWeights
from ernie_backend.weights.precision import Precision, WeightFormat
from ernie_backend.weights.recipes import recipes
from ernie_backend.weights.roles import Role, WeightKey
from ernie_backend.weights.sharding import Shard, kv_heads_of, part_of
from ernie_kernels.api import CacheScales
from ernie_kernels.formats import (
    WEIGHT_GROUP,
    Bfloat16Weight,
    Float32Weight,
    GroupedInt4Weight,
    Int4Weight,
    Int8Weight,
    LinearWeight,
    W4A8Weight,
    bfloat16_to_float32,
)

_SIGN_AND_MANTISSA = np.uint16(0x807F)
_EXPONENT = np.uint16(0x3C80)  # 2^-6
_LARGEST = np.float32(2**-5)
_LARGEST_INPUT = 4.0


class DummyWeights(ModelWeights):
    """The weights of ``config`` as random numbers; see ``ModelWeights``.

    Raises:
        StartError: ``dtype`` or ``quantization`` names no format.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: str,
        quantization: str | None,
        shard: Shard | None = None,
        *,
        has_int8_head: bool = True,
    ) -> None:
        precision = Precision(dtype, quantization, config.tie_word_embeddings, has_int8_head)
        super().__init__(config, precision, shard)
        layout = ARCHITECTURES[config.architecture].layouts[0]  # in every one they are as large
        self._shapes = {key: recipe.shape for key, recipe in recipes(config, layout).items()}
        stored = config.quantization_config or QuantizationConfig("w4a8")
        self._rotation, self._has_cache_scales = stored.hadamard_block, stored.has_cache_scales
        self._cache_shape = len(kv_heads_of(config, self._shard)), config.head_dim

    def linear(self, role: Role, layer: int = 0, expert: int = 0) -> LinearWeight:
        """Return a random ``[N, K]`` matrix, of the size of the rank's part."""
        whole_outputs, whole_inputs = self._shapes[WeightKey(role, layer, expert)]
        outputs, inputs = part_of(role, (whole_outputs, whole_inputs), self._config, self._shard).shape
        seed = zlib.crc32(f"{role.name} {layer} {expert} {self._shard.name}".rstrip().encode())
        random = np.random.Generator(np.random.SFC64(seed))
        fmt = self._format(role)
        if fmt is WeightFormat.INT8:
            codes = np.maximum(_random_bytes(random, outputs, inputs).view(np.int8), -127)
            return Int8Weight(codes, np.full(outputs, _LARGEST / 127, np.float32))
        if fmt in (WeightFormat.INT4, WeightFormat.GROUPED_INT4, WeightFormat.W4A8):
            packed = _random_bytes(random, outputs, (inputs + 1) // 2)
            if fmt is WeightFormat.INT4:
                return Int4Weight(packed, np.full(outputs, _LARGEST / 8, np.float32), inputs)
            if fmt is WeightFormat.GROUPED_INT4:
                scales = np.full((outputs, -(-inputs // WEIGHT_GROUP)), _LARGEST / 8, np.float32)
                return GroupedInt4Weight(packed, scales, inputs)
            rotation = self._rotation if role is Role.EXPERT_DOWN else 0
            growth = np.float32(max(1, rotation) ** 0.5)  # of inputs that are rotated; the weight undoes it
            int4 = Int4Weight(packed, np.full(outputs, _LARGEST / 8 / growth, np.float32), inputs)
            return W4A8Weight(int4, float(_LARGEST_INPUT * growth) / 127, rotation)
        bits = _random_bytes(random, outputs, 2 * inputs).view(np.uint16)
        bits &= _SIGN_AND_MANTISSA
        bits |= _EXPONENT
        if fmt is WeightFormat.BFLOAT16:
            return Bfloat16Weight(bits)
        return Float32Weight(bfloat16_to_float32(bits))

    def vector(self, role: Role, layer: int = 0) -> NDArray[np.float32]:
        """Return a ``[K]`` vector: zeros for a bias, else ones."""
        length = math.prod(self._shapes[WeightKey(role, layer)])
        return np.full(length, not role.name.endswith("_BIAS"), np.float32)

    def cache_scales(self, layer: int) -> CacheScales | None:  # noqa: ARG002 - all layers are alike
        """Return scales of numbers up to 4, if config.json says that the checkpoint has scales."""
        if not self._has_cache_scales:
            return None
        scales = np.full(self._cache_shape, _LARGEST_INPUT / 127, np.float32)
        return CacheScales(scales, scales)


def _random_bytes(random: np.random.Generator, rows: int, columns: int) -> NDArray[np.uint8]:
    words = random.integers(0, 1 << 64, -(-rows * columns // 8), np.uint64)
    return words.view(np.uint8)[: rows * columns].reshape(rows, columns)
