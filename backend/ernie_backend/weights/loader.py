"""The weights of one checkpoint, by role and in the format that they have in memory.

Everything is checked when the checkpoint is opened, before a weight is read; weights are then made one at a
time, so loading needs the memory of one weight in addition to what the model keeps. They have the plain formats
of ``ernie_kernels.formats``, which every backend packs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.errors import StartError
from ernie_backend.weights.base import ModelWeights
from ernie_backend.weights.checkpoints.files import Checkpoint, checkpoint_files
from ernie_backend.weights.checkpoints.prequantized import (
    brings_cache_scales,
    cache_scale_specs,
    read_cache_scales,
    read_stored,
    rotation_warning,
    stored_weights,
)
from ernie_backend.weights.checkpoints.presharded import PreshardedCheckpoint, open_checkpoint
from ernie_backend.weights.checkpoints.quantized_cache import QuantizedCache
from ernie_backend.weights.checkpoints.validation import check_tensors, check_tied_head
from ernie_backend.weights.float_conversion import as_bfloat16, as_float32, finite_outputs, float32_blocks
from ernie_backend.weights.precision import QUANTIZED, Precision, WeightFormat
from ernie_backend.weights.recipes import CheckpointTensor, Recipe, recipes_for
from ernie_backend.weights.roles import ROUTERS, Role, WeightKey
from ernie_backend.weights.sharding import Part, Shard, kv_heads_of, part_of
from ernie_kernels.api import CacheScales
from ernie_kernels.formats import (
    Bfloat16Weight,
    Float32Weight,
    GroupedInt4Weight,
    Int4Weight,
    Int8Weight,
    LinearWeight,
    QuantizedWeight,
    int4_columns,
    quantize_grouped_int4,
    quantize_int4,
    quantize_int8,
)

logger = logging.getLogger(__name__)
_CHECKED = (*ROUTERS, Role.EMBEDDING)
"""Checked even if they are not quantized: NaN elsewhere shows in every answer, here only in some."""


class CheckpointWeights(ModelWeights):
    """The weights of an open checkpoint; close it, or use it as a context manager."""

    def __init__(
        self,
        checkpoint: Checkpoint | PreshardedCheckpoint,
        config: ModelConfig,
        precision: Precision,
        cache: QuantizedCache | None,
        shard: Shard | None,
    ) -> None:
        super().__init__(config, precision, shard)
        self._checkpoint = checkpoint
        self._recipes = recipes_for(checkpoint.names, config, str(checkpoint.directory))
        self._cache = cache
        self._stored = stored_weights(
            self._recipes, precision, checkpoint.names, is_expected=config.quantization_config is not None
        )
        self._has_cache_scales = brings_cache_scales(config, checkpoint.names)
        check_tensors(checkpoint, list(self._expected()))
        if config.tie_word_embeddings:
            check_tied_head(checkpoint, self._recipes[WeightKey(Role.EMBEDDING)].tensors[0])
        self._rotation = (config.quantization_config or QuantizationConfig("w4a8")).hadamard_block
        if warning := rotation_warning(checkpoint, self._stored, self._rotation):
            logger.warning("%s", warning)

    @classmethod
    def open(
        cls,
        directory: Path,
        config: ModelConfig,
        dtype: str,
        quantization: str | None,
        cache_root: Path | None = None,
        shard: Shard | None = None,
        *,
        has_int8_head: bool = True,
    ) -> CheckpointWeights:
        """Open the checkpoint in ``directory`` and check that it holds every weight of ``config``.

        Args:
            directory: a model directory, HF or Paddle layout, one file or shards, whole or cut for ranks.
            config: the model's sizes.
            dtype: ``float32`` or ``bfloat16``, for what is not quantized.
            quantization: None, or one of ``QUANTIZATIONS``.
            cache_root: directory that keeps quantized weights for the next start; None: they are not kept.
            shard: the rank whose part of each matrix is returned; default: the whole.
            has_int8_head: whether quantization includes the output head.

        Raises:
            StartError: a file or tensor is missing or damaged, a tensor has another shape than ``config`` says,
                or a setting names no format.
        """
        precision = Precision(dtype, quantization, config.tie_word_embeddings, has_int8_head)
        part = shard.name if shard else ""
        cache = _open_cache(cache_root, directory, part) if quantization is not None else None
        checkpoint = open_checkpoint(directory, config, precision, shard or Shard())
        try:
            return cls(checkpoint, config, precision, cache, shard)
        except StartError:
            checkpoint.close()
            raise

    def __enter__(self) -> CheckpointWeights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def forget(self) -> None:
        """Release the pages that were read, which a file's map keeps; weights that were returned stay valid."""
        self._checkpoint.forget()

    def close(self) -> None:
        """Close the files; weights that were returned stay valid."""
        self._checkpoint.close()

    def linear(self, role: Role, layer: int = 0, expert: int = 0) -> LinearWeight:
        """Return the rank's part of the ``[N, K]`` matrix of ``role``, in new memory or mapped."""
        key = WeightKey(role, layer, expert)
        fmt = self._format(role)
        part = self._part(key)
        if key in self._stored:
            rotation = self._rotation if role is Role.EXPERT_DOWN else 0
            return read_stored(self._checkpoint, self._stored[key], fmt, rotation, part)
        if fmt in QUANTIZED:
            return self._quantized(key, fmt, part)
        stored = self._read(self._recipes[key], part)
        if role in _CHECKED:
            self._check_finite(key, finite_outputs(stored), part)
        if fmt is WeightFormat.BFLOAT16:
            return Bfloat16Weight(as_bfloat16(stored))
        return Float32Weight(as_float32(stored))

    def vector(self, role: Role, layer: int = 0) -> NDArray[np.float32]:
        """Return the float32 ``[K]`` vector of ``role``, in new memory."""
        key = WeightKey(role, layer)
        values = as_float32(self._read(self._recipes[key])).reshape(-1)
        self._check_finite(key, np.isfinite(values))
        return values

    def as_stored(self, role: Role, layer: int = 0, expert: int = 0) -> NDArray[np.generic]:
        """Return a whole weight that is not quantized as it is stored, outputs first; bfloat16 as uint16 bits.

        Raises:
            StartError: it has a number that is not finite.
        """
        key = WeightKey(role, layer, expert)
        stored = self._read(self._recipes[key])
        if role.is_vector:
            self._check_finite(key, finite_outputs(stored.reshape(-1)))
        else:
            whole = Part((range(len(stored)),), range(stored.shape[1]))
            self._check_finite(key, finite_outputs(stored), whole)
        return stored

    def cache_scales(self, layer: int) -> CacheScales | None:
        """Return the static scales of the rank's int8 KV cache; None if the checkpoint brings none."""
        if not self._has_cache_scales:
            return None
        return read_cache_scales(self._checkpoint, self._config, layer, kv_heads_of(self._config, self._shard))

    def _expected(self) -> Iterator[CheckpointTensor]:
        for key, recipe in self._recipes.items():
            yield from self._stored[key].tensors if key in self._stored else recipe.tensors
        if self._has_cache_scales:
            for layer in range(self._config.num_layers):
                yield from cache_scale_specs(self._config, layer)

    def _part(self, key: WeightKey) -> Part:
        outputs, inputs = self._recipes[key].shape
        return part_of(key.role, (outputs, inputs), self._config, self._shard)

    def _quantized(self, key: WeightKey, fmt: WeightFormat, part: Part) -> QuantizedWeight:
        cached = self._cache.get(key, fmt, part.shape) if self._cache else None
        weight = cached or self._quantize(key, fmt, part)
        self._check_finite(key, np.isfinite(weight.scales).reshape(len(weight.scales), -1).all(axis=1), part)
        if self._cache and cached is None:
            self._cache.put(key, weight)
        return weight

    def _quantize(self, key: WeightKey, fmt: WeightFormat, part: Part) -> QuantizedWeight:
        """Quantize whole rows, so that every rank has scales and codes of the whole matrix.

        Groups of inputs begin at the rank's first one, so its part is enough.
        """
        recipe = self._recipes[key]
        with np.errstate(invalid="ignore"):  # what is not finite shows in the scales
            if fmt is WeightFormat.GROUPED_INT4:
                return _quantize_groups(self._pieces(recipe, part), len(part.columns))
            whole_rows = replace(part, columns=range(recipe.shape[1]))
            return _quantize(self._pieces(recipe, whole_rows), fmt, part.columns)

    def _check_finite(self, key: WeightKey, is_finite: NDArray[np.bool_], part: Part | None = None) -> None:
        """Raise StartError unless all outputs of a weight, or of a part of it, are finite."""
        if is_finite.all():
            return
        recipe, output = self._recipes[key], int(np.argmin(is_finite))
        tensor = recipe.tensors[0]
        if part is not None:
            pieces = part.pieces(recipe.heights)
            index, output = [(index, row) for index, rows in pieces for row in rows][output]
            tensor = recipe.tensors[index]
        raise StartError(
            f"{self._checkpoint.file_of(tensor.name)}: tensor {tensor.name} has a number that is not finite at "
            f"output {output}; copy the checkpoint again, or use another"
        )

    def _read(self, recipe: Recipe, part: Part | None = None) -> NDArray[np.generic]:
        """Return a weight or a part as stored, outputs first: float32, float16, or bfloat16 bits as uint16."""
        pieces = self._pieces(recipe, part)
        # Parts of one weight may be stored in different types; only then is a common one needed.
        if len({piece.dtype for piece in pieces}) > 1:
            pieces = [as_float32(piece) for piece in pieces]
        # In rows, whatever the order of the files.
        rows = np.empty((sum(map(len, pieces)), *pieces[0].shape[1:]), pieces[0].dtype)
        return np.concatenate(pieces, out=rows)

    def _pieces(self, recipe: Recipe, part: Part | None) -> list[NDArray[np.generic]]:
        """Return views of the tensors of a weight or a part, outputs first, in their order."""
        pieces = [_as_matrix(self._checkpoint.tensor(tensor.name)) for tensor in recipe.tensors]
        if recipe.is_transposed:
            pieces = [piece.T for piece in pieces]
        return pieces if part is None else part.cut(pieces)


def _as_matrix(stored: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a convolution's kernel as ``[outputs, inputs]``; all else as it is."""
    return stored.reshape(len(stored), -1) if stored.ndim > 2 else stored


def _open_cache(root: Path | None, directory: Path, part: str) -> QuantizedCache | None:
    """Open the cache of a checkpoint before its files are mapped.

    A file that is replaced meanwhile is cached under the fingerprint of the older one, which no start looks up
    again; in the other order, older content would get the fingerprint of the newer one.
    """
    if root is None:
        return None
    try:
        return QuantizedCache(root, directory, checkpoint_files(directory), part)
    except OSError as error:
        logger.warning("quantized weights are not cached: %s", error)
        return None


def _quantize(pieces: Sequence[NDArray[np.generic]], fmt: WeightFormat, columns: range) -> QuantizedWeight:
    """Quantize some rows at a time; keep some columns."""
    blocks = (block for piece in pieces for _, block in float32_blocks(piece))
    if fmt is WeightFormat.INT4:
        int4 = [int4_columns(quantize_int4(block), columns) for block in blocks]
        packed = np.concatenate([block.packed for block in int4])
        return Int4Weight(packed, np.concatenate([block.scales for block in int4]), len(columns))
    outputs = sum(map(len, pieces))
    codes, scales, end = np.empty((outputs, len(columns)), np.int8), np.empty(outputs, np.float32), 0
    for block in blocks:
        int8, begin, end = quantize_int8(block), end, end + len(block)
        codes[begin:end], scales[begin:end] = int8.codes[:, columns.start : columns.stop], int8.scales
    return Int8Weight(codes, scales)


def _quantize_groups(pieces: Sequence[NDArray[np.generic]], inputs: int) -> GroupedInt4Weight:
    """Quantize some rows at a time."""
    blocks = [quantize_grouped_int4(block) for piece in pieces for _, block in float32_blocks(piece)]
    packed = np.concatenate([block.packed for block in blocks])
    return GroupedInt4Weight(packed, np.concatenate([block.scales for block in blocks]), inputs)
