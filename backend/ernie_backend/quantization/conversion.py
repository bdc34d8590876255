"""What a conversion is to make, and whether that can be made."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.stored_quantization import HADAMARD_BLOCK, StoredQuantization
from ernie_backend.errors import StartError
from ernie_backend.weights.checkpoints.files import checkpoint_files
from ernie_backend.weights.checkpoints.quantized_cache import fingerprint
from ernie_backend.weights.sharding import Shard, check_split

_VERSION = 2
"""Of the numbers that a conversion writes: what another version has left unfinished cannot be finished."""


@dataclass(frozen=True)
class Conversion:
    """One conversion.

    Attributes:
        source: directory of a checkpoint that is not quantized.
        target: directory of the one to make.
        how: the formats to make.
        ranks: for how many ranks the target is cut; 1: not at all.
        texts: token ids to calibrate with; needed for w4a8 and for scales of a KV cache.
    """

    source: Path
    target: Path
    how: StoredQuantization
    ranks: int = 1
    texts: Sequence[Sequence[int]] = ()

    @property
    def needs_texts(self) -> bool:
        """Whether something has to be measured."""
        return self.how.quantization == "w4a8" or self.how.has_cache_scales

    @property
    def rotation(self) -> int:
        """Block in which the inputs of an expert's second matrix are rotated; 0: not."""
        return self.how.hadamard_block if self.how.quantization == "w4a8" else 0

    def check(self, config: ModelConfig) -> None:
        """Check the conversion against the source's config.

        Raises:
            StartError: it cannot be made; names what would be right.
        """
        name = self.how.quantization
        if config.stored_quantization is not None:
            raise StartError(
                f"{self.source} is quantized already ({config.stored_quantization.quantization}); give the "
                "checkpoint that it was made of"
            )
        if config.moe is None and name != "wint8":
            raise StartError(f"{name} quantizes experts, and {self.source} has none; give --quantization wint8")
        if self.rotation and config.moe and config.moe.intermediate_size % self.rotation:
            raise StartError(
                f"w4a8 rotates blocks of {self.rotation} inputs, which do not divide the experts' "
                f"{config.moe.intermediate_size}; give --quantization wint4"
            )
        if self.needs_texts and not self.texts:
            raise StartError(
                "w4a8 and the scales of a KV cache have to be measured; give --calibration FILE with a text in "
                "each line, of the kind that the model will see"
            )
        if self.target.resolve() == self.source.resolve():
            raise StartError(f"{self.target} is the source; give another directory")
        check_split(config, Shard(0, self.ranks), max(1, self.rotation))

    def identity(self) -> dict[str, Any]:
        """Return what tells this conversion from any other, as JSON; the source's files by a fingerprint."""
        return {
            "version": _VERSION,
            "how": self.how.to_json(),
            "ranks": self.ranks,
            "source": fingerprint(checkpoint_files(self.source)),
            "texts": zlib.crc32(json.dumps([list(text) for text in self.texts]).encode()),
        }


def wanted(quantization: str, *, has_cache_scales: bool) -> StoredQuantization:
    """Return what ``--quantization`` and ``--kv-cache`` ask for."""
    return StoredQuantization(quantization, has_cache_scales, HADAMARD_BLOCK)
