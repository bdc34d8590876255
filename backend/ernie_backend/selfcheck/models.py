"""A tiny random model of every family: a backend's logits are those of the NumPy reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_backend.config.fields import ConfigFields
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.models.base import VisionTower
from ernie_backend.models.load import build_model
from ernie_backend.selfcheck.report import Check, Floats, compared
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_backend.weights.dummy import DummyWeights
from ernie_kernels.api import Array, Batch, CacheSpec, LayerCache, Ops, UnsupportedError
from ernie_kernels.formats import ActivationType
from ernie_kernels.reference import ReferenceOps

_PROMPT, _ANSWER, _BLOCK = 80, 3, 64
_GRID, _FIRST_OF_IMAGE = (1, 4, 6), 4
_NUM_OF_IMAGE = 6
"""Tokens of an image of 4 x 6 patches, in the prompt's first half."""
_COMMON: Mapping[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
}
_EXPERTS: Mapping[str, Any] = {
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "moe_num_experts": 8,
    "moe_k": 8,  # all of them: which ones are chosen must not depend on the last bits
    "moe_intermediate_size": 128,
    "moe_layer_start_index": 1,
}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "0.3B": {**_COMMON, "architectures": ["Ernie4_5ForCausalLM"]},
    "21B-A3B": {**_COMMON, **_EXPERTS, "moe_num_shared_experts": 2},
    "300B-A47B": {**_COMMON, **_EXPERTS, "tie_word_embeddings": False},
    "VL": {
        **_COMMON,
        **_EXPERTS,
        "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
        "moe_num_experts": [8, 8],
        "moe_intermediate_size": [128, 64],
        "moe_layer_start_index": [1, 1],
        "moe_num_shared_experts": 2,
        "rope_3d": True,
        "freq_allocation": 4,
        "vision_config": {"depth": 2, "embed_dim": 64, "num_heads": 4, "mlp_ratio": 4, "patch_size": 14},
    },
    "PaddleOCR-VL": {
        **_COMMON,
        "architectures": ["PaddleOCRVLForConditionalGeneration"],
        "tie_word_embeddings": False,
        "rope_scaling": {"type": "default", "mrope_section": [4, 6, 6]},
        "vision_config": {
            "hidden_size": 72,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "intermediate_size": 144,
            "image_size": 84,
            "patch_size": 14,
        },
    },
}
"""Fields of config.json, by family."""
_FORMATS = (None, "wint8", "wint4")


def check_models(ops: Ops, tolerance: float) -> Iterator[Check]:
    """Yield a comparison of each family's logits in each format: of a prompt, then of an answer."""
    for family, fields in FAMILIES.items():
        config = ModelConfig.from_fields(ConfigFields(Path("config.json"), dict(fields)))
        for quantization in _FORMATS:
            name = f"model {family} {quantization or 'bf16'}"
            means = "if all ops passed, tokens of a step or blocks of the cache are mixed up"
            expected = _logits(config, quantization, ReferenceOps())
            try:
                actual = _logits(config, quantization, ops)
            except Exception as error:  # noqa: BLE001 - whatever the backend raises is the result
                yield Check(name, passed=False, found=f"{type(error).__name__}: {error}"[:300], means=means)
            else:
                yield compared(name, expected, actual, tolerance, means)


def _logits(config: ModelConfig, quantization: str | None, ops: Ops) -> Floats:
    """Return the logits ``[steps, V]`` after a prompt in two chunks and after each token of an answer."""
    settings = LoadSettings("bfloat16", quantization, ActivationType.FLOAT32, _PROMPT + _ANSWER)
    model = build_model(config, DummyWeights(config, "bfloat16", quantization), ops, settings)
    num_blocks = -(-(_PROMPT + _ANSWER) // _BLOCK)
    spec = CacheSpec(num_blocks, _BLOCK, config.num_kv_heads, config.head_dim, "float32")
    caches = [_allocate(ops, spec) for _ in range(config.num_layers)]
    image = range(_FIRST_OF_IMAGE, _FIRST_OF_IMAGE + _NUM_OF_IMAGE)
    media = None if model.vision is None else _embeddings(model.vision, ops)
    places = np.arange(_PROMPT + _ANSWER, dtype=np.int32) if media is None else _places()
    tokens = np.random.default_rng(1).integers(3, config.vocab_size, _PROMPT + _ANSWER).astype(np.int32)
    ends = (_PROMPT // 2, _PROMPT, *range(_PROMPT + 1, _PROMPT + _ANSWER + 1))
    steps = []
    for start, end in zip((0, *ends), ends, strict=False):
        of_image = [] if media is None else [each for each in image if start <= each < end]
        rows = np.array([each - start for each in of_image], np.int32) if of_image else None
        batch = Batch(
            token_ids=tokens[start:end],
            positions=np.ascontiguousarray(places[..., start:end]),
            media_rows=rows,
            vision_rows=rows if config.vision_moe else None,
            query_starts=np.array([0, end - start], np.int32),
            context_lengths=np.array([start], np.int32),
            block_tables=np.arange(num_blocks, dtype=np.int32)[None, ::-1].copy(),
            logit_rows=np.array([end - start - 1], np.int32),
        )
        steps.append(model.forward(ops.upload(batch), caches, media if of_image else None).logits)
    return np.concatenate(steps)


def _allocate(ops: Ops, spec: CacheSpec) -> LayerCache:
    """Return a cache in float32, or in bfloat16 where the backend has no other."""
    try:
        return ops.allocate_cache(spec)
    except UnsupportedError:
        return ops.allocate_cache(replace(spec, dtype="bfloat16"))


def _embeddings(tower: VisionTower, ops: Ops) -> Array:
    """Return what the tower makes of a random image."""
    patches = _GRID[1] * _GRID[2]
    pixels = np.random.default_rng(2).standard_normal((patches, 3 * 14 * 14)).astype(np.float32)
    embeddings: list[Array] = []

    def encoded() -> Iterator[None]:
        embeddings.append((yield from tower.encode(ops.upload_rows(pixels), _GRID)))

    for _ in encoded():
        pass
    return embeddings[0]


def _places() -> NDArray[np.int32]:
    """Return int32 ``[3, T]``: places in time, height and width; text goes on after the largest."""
    rows, columns = _GRID[1] // 2, _GRID[2] // 2
    before = np.tile(np.arange(_FIRST_OF_IMAGE), (3, 1))
    cells = np.indices((1, rows, columns)).reshape(3, -1) + _FIRST_OF_IMAGE
    num_after = _PROMPT + _ANSWER - _FIRST_OF_IMAGE - _NUM_OF_IMAGE
    after = np.tile(np.arange(num_after) + cells.max() + 1, (3, 1))
    places: NDArray[np.int32] = np.concatenate([before, cells, after], axis=1).astype(np.int32)
    return places
