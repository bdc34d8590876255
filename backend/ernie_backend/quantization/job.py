"""What a run of ``quantize`` makes, and whether it can be made."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.errors import StartError
from ernie_backend.weights.checkpoints.files import checkpoint_files
from ernie_backend.weights.checkpoints.quantized_cache import fingerprint
from ernie_backend.weights.precision import OF_EXPERTS
from ernie_backend.weights.sharding import Shard, check_split

_VERSION = 2
"""Of the numbers that a job writes: what another version left unfinished cannot be finished."""


@dataclass(frozen=True)
class QuantizationJob:
    """A checkpoint to quantize.

    Attributes:
        source: directory of a checkpoint that is not quantized.
        target: directory of the one to make.
        config: the formats to write.
        ranks: for how many ranks the target is cut; 1: not at all.
        texts: token ids to calibrate with; needed for w4a8 and for scales of a KV cache.
    """

    source: Path
    target: Path
    config: QuantizationConfig
    ranks: int = 1
    texts: Sequence[Sequence[int]] = ()

    @property
    def needs_texts(self) -> bool:
        """Whether activations have to be measured."""
        return self.config.quantization == "w4a8" or self.config.has_cache_scales

    @property
    def rotation(self) -> int:
        """Block in which the inputs of an expert's second matrix are rotated; 0: not."""
        return self.config.hadamard_block if self.config.quantization == "w4a8" else 0

    def check(self, model: ModelConfig) -> None:
        """Check that the source, whose config.json is ``model``, can be quantized like this.

        Raises:
            StartError: it cannot; names what would be right.
        """
        name = self.config.quantization
        if model.quantization_config is not None:
            raise StartError(
                f"{self.source} is quantized already ({model.quantization_config.quantization}); give the "
                "checkpoint that it was made from"
            )
        if model.moe is None and name in OF_EXPERTS:
            raise StartError(
                f"{name} quantizes experts, and {self.source} has none; give --quantization wint8 or wint4_all"
            )
        if model.vision is not None and self.needs_texts:
            raise StartError(
                "w4a8 and static scales of a KV cache are measured with texts, which do not show what images "
                "and videos lead to; give --quantization wint8 or wint4, and serve with --kv-cache-dtype int8"
            )
        if self.rotation and model.moe and model.moe.intermediate_size % self.rotation:
            raise StartError(
                f"w4a8 rotates blocks of {self.rotation} inputs, which do not divide the experts' "
                f"{model.moe.intermediate_size}; give --quantization wint4"
            )
        if self.needs_texts and not self.texts:
            raise StartError(
                "w4a8 and the scales of a KV cache have to be measured; give --calibration FILE with a text in "
                "each line, of the kind that the model will see"
            )
        if self.target.resolve() == self.source.resolve():
            raise StartError(f"{self.target} is the source; give another directory")
        check_split(model, Shard(0, self.ranks), max(1, self.rotation))

    def identity(self) -> dict[str, Any]:
        """Return what distinguishes this job from any other, as JSON; the source's files by a fingerprint."""
        return {
            "version": _VERSION,
            "how": self.config.to_json(),
            "ranks": self.ranks,
            "source": fingerprint(checkpoint_files(self.source)),
            "texts": zlib.crc32(json.dumps([list(text) for text in self.texts]).encode()),
        }
