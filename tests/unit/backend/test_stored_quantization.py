"""quantization_config of config.json: what is understood, and what is refused with the key and its value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ernie_backend.config_fields import ConfigFields
from ernie_backend.errors import StartError
from ernie_backend.stored_quantization import StoredQuantization, read_stored_quantization


def read(content: Any) -> StoredQuantization | None:
    return read_stored_quantization(ConfigFields(Path("config.json"), {"quantization_config": content}))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, None),
        ({"quantization": "wint8", "is_quantized": True}, StoredQuantization("wint8")),
        ({"quantization": "wint4"}, StoredQuantization("wint4")),
        (
            {"quantization": "mix_quant", "dense_quant_type": "wint8", "moe_quant_type": "wint4"},
            StoredQuantization("wint4"),
        ),
        (
            {
                "quantization": "mix_quant",
                "dense_quant_type": "wint8",
                "moe_quant_type": "w4a8",
                "kv_cache_quant_type": "int8",
                "hadamard_block_size": 64,
                "is_moe_quantized": True,
            },
            StoredQuantization("w4a8", has_cache_scales=True, hadamard_block=64),
        ),
    ],
)
def test_what_is_understood(content: Any, expected: StoredQuantization | None) -> None:
    assert read(content) == expected


@pytest.mark.parametrize("quantization", ["wint8", "wint4", "w4a8"])
@pytest.mark.parametrize("has_cache_scales", [False, True])
def test_what_is_written_is_read_back(quantization: str, has_cache_scales: bool) -> None:
    stored = StoredQuantization(quantization, has_cache_scales, 256)
    assert read(stored.to_json()) == stored


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("w4a8", "config.json: quantization_config must be an object, found 'w4a8'"),
        ({}, "quantization_config.quantization is None"),
        (
            {"quantization": "w2a2"},
            "quantization is 'w2a2', .* known are wint8, wint4, w4a8, or mix_quant with",
        ),
        (
            {"quantization": "mix_quant", "dense_quant_type": "wint4", "moe_quant_type": "w4a8"},
            "dense_quant_type 'wint4', moe_quant_type 'w4a8'; known are .*; wint8 and w4a8",
        ),
        (
            {"quantization": "wint8", "kv_cache_quant_type": "float8_e4m3fn"},
            "kv_cache_quant_type is 'float8_e4m3fn'; known is int8",
        ),
        ({"quantization": "wint8", "has_zero_point": True}, "has_zero_point is true; KV caches are symmetric"),
        (
            {"quantization": "w4a8", "hadamard_block_size": 0},
            "hadamard_block_size must be an integer of at least 2",
        ),
    ],
)
def test_what_is_refused(content: Any, complaint: str) -> None:
    with pytest.raises(StartError, match=complaint):
        read(content)
