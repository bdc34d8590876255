"""quantization_config of config.json: what is understood, and what is refused with the key and its value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ernie_backend.config.fields import ConfigFields
from ernie_backend.config.quantization_config import QuantizationConfig, read_quantization_config
from ernie_backend.errors import StartError

W4A8 = {"quantization": "mix_quant", "dense_quant_type": "wint8", "moe_quant_type": "w4a8"}
MISSING = "is_permuted is missing, which means true: codes in the order of a GPU kernel"
TRUE = "is_permuted is true: codes in the order of a GPU kernel, which cannot be read; set it to false"


def read(content: Any, **outside: Any) -> QuantizationConfig | None:
    fields = {"quantization_config": content, **outside}
    return read_quantization_config(ConfigFields(Path("config.json"), fields))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, None),
        ({"quantization": "wint8", "is_quantized": True}, QuantizationConfig("wint8")),
        ({"quantization": "wint4"}, QuantizationConfig("wint4")),
        (
            {"quantization": "mix_quant", "dense_quant_type": "wint8", "moe_quant_type": "wint4"},
            QuantizationConfig("wint4"),
        ),
        (
            {
                "quantization": "mix_quant",
                "dense_quant_type": "wint4",
                "moe_quant_type": "wint4",
                "dense_quant_group_size": 64,
            },
            QuantizationConfig("wint4_all"),
        ),
        (
            {
                "quantization": "mix_quant",
                "dense_quant_type": "wint8",
                "moe_quant_type": "w4a8",
                "kv_cache_quant_type": "int8",
                "hadamard_block_size": 64,
                "is_moe_quantized": True,
                "is_permuted": False,
                "is_channel_wise": False,
            },
            QuantizationConfig("w4a8", has_cache_scales=True, hadamard_block=64),
        ),
    ],
)
def test_what_is_understood(content: Any, expected: QuantizationConfig | None) -> None:
    assert read(content) == expected


@pytest.mark.parametrize("quantization", ["wint8", "wint4", "wint4_all", "w4a8"])
@pytest.mark.parametrize("has_cache_scales", [False, True])
def test_what_is_written_is_read_back(quantization: str, has_cache_scales: bool) -> None:
    stored = QuantizationConfig(quantization, has_cache_scales, 256)
    assert read(stored.to_json()) == stored


@pytest.mark.parametrize(
    "says",
    [
        {"is_quantized": True, "is_permuted": False},
        {"is_moe_quantized": True, "is_permuted": False},
        {"kv_cache_quant_type": "int8"},
        {"is_quantized": False, "is_permuted": True},
        {"is_quantized": False, "is_moe_quantized": True},
        {"is_moe_quantized": False, "is_permuted": True},
    ],
)
def test_codes_that_fastdeploy_takes_for_plain_are_plain(says: dict[str, Any]) -> None:
    stored = read({**W4A8, **says})
    assert stored is not None
    assert stored.quantization == "w4a8"


@pytest.mark.parametrize(
    ("says", "outside", "complaint"),
    [
        ({}, {}, MISSING),
        ({"is_permuted": True}, {}, TRUE),
        ({"is_quantized": True}, {}, MISSING),
        ({"is_moe_quantized": True}, {}, MISSING),
        ({"is_quantized": True, "kv_cache_quant_type": "int8"}, {}, MISSING),
        ({"kv_cache_quant_type": "int8"}, {"is_quantized": True}, MISSING),
        ({"quantization": "wint8", "moe_quant_type": "wint8", "is_permuted": True}, {}, TRUE),
    ],
)
def test_codes_in_the_order_of_a_gpu_kernel_are_refused(
    says: dict[str, Any], outside: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(StartError, match=complaint):
        read({**W4A8, **says}, **outside)


@pytest.mark.parametrize(
    "content",
    [
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
        {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        {"quant_method": "awq", "zero_point": True},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "fp8", "quantization": "wint8"},
    ],
    ids=lambda content: content["quant_method"],
)
def test_weights_of_other_tools_are_refused_by_the_name_of_their_method(content: dict[str, Any]) -> None:
    method = content["quant_method"]
    with pytest.raises(StartError, match=f"quant_method is '{method}'"):
        read(content)
    assert read({"quantization": "wint8", "quant_method": "wint8"}) == QuantizationConfig("wint8")


@pytest.mark.parametrize("size", [None, 128, "64"])
def test_dense_int4_has_scales_of_the_one_group_size(size: Any) -> None:
    """FastDeploy's own dense int4 has one scale for each output, and no such key."""
    with pytest.raises(StartError, match=f"dense_quant_group_size is {size!r}; .* a scale for 64 inputs"):
        read({"quantization": "wint4_all", "dense_quant_group_size": size})


@pytest.mark.parametrize(("quantization", "inputs"), [("wint8", 1), ("wint4", 2), ("w4a8", 64)])
def test_inputs_that_no_rank_may_divide(quantization: str, inputs: int) -> None:
    assert QuantizationConfig(quantization, hadamard_block=64).expert_block == inputs


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("w4a8", "quantization_config must be an object"),
        ({}, "quantization_config.quantization "),
        (
            {"quantization": "w2a2"},
            "w2a2",
        ),
        (
            {"quantization": "mix_quant", "dense_quant_type": "wint4", "moe_quant_type": "w4a8"},
            "dense_quant_type 'wint4'",
        ),
        (
            {"quantization": "wint8", "kv_cache_quant_type": "float8_e4m3fn"},
            "kv_cache_quant_type .*float8_e4m3fn",
        ),
        ({"quantization": "wint8", "has_zero_point": True}, "has_zero_point"),
        (
            {"quantization": "w4a8", "is_permuted": False, "hadamard_block_size": 0},
            "hadamard_block_size",
        ),
        (
            {"quantization": "wint8", "moe_quant_type": "wint4"},
            "moe_quant_type 'wint4'",
        ),
        (
            {"quantization": "w4a8", "dense_quant_type": "wint4"},
            "dense_quant_type 'wint4'",
        ),
        ({"quantization": ["x"]}, "quantization must be a string"),
        (
            {"quantization": "mix_quant", "dense_quant_type": "wint8", "moe_quant_type": 4},
            "moe_quant_type must be a string",
        ),
        (
            {"quantization": "wint8", "kv_cache_quant_type": {}},
            "kv_cache_quant_type must be a string",
        ),
        ({"quantization": "w4a8", "is_permuted": "no"}, "is_permuted"),
    ],
)
def test_what_is_refused(content: Any, complaint: str) -> None:
    with pytest.raises(StartError, match=complaint):
        read(content)
