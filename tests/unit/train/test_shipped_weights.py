"""The embedded model as it is shipped: small, bfloat16, in the layout and with the template that it claims."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest

from ernie_backend.chat.template import BUILT_IN
from support.paths import REPOSITORY

WEIGHTS = REPOSITORY / "ernie-tiny" / "weights"
MOST_BYTES = 12_000_000
BF16_EXPONENT = 0x7F80
OF_A_LAYER = (
    "input_layernorm", "post_attention_layernorm",
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip


def read_json(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((WEIGHTS / name).read_text(encoding="utf-8"))
    return value


@pytest.fixture(scope="module")
def data() -> bytes:
    return (WEIGHTS / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def header(data: bytes) -> dict[str, Any]:
    (size,) = struct.unpack_from("<Q", data)
    value: dict[str, Any] = json.loads(data[8 : 8 + size])
    value.pop("__metadata__", None)
    return value


def test_all_files_together_are_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= MOST_BYTES


def test_the_tensors_are_those_of_the_dense_hf_layout(header: dict[str, Any]) -> None:
    config = read_json("config.json")
    assert config["architectures"] == ["Ernie4_5ForCausalLM"]
    assert config["tie_word_embeddings"]
    layers = range(config["num_hidden_layers"])
    names = {f"model.layers.{layer}.{each}.weight" for layer in layers for each in OF_A_LAYER}
    assert set(header) == {"model.embed_tokens.weight", "model.norm.weight", *names}
    assert header["model.embed_tokens.weight"]["shape"] == [config["vocab_size"], config["hidden_size"]]


def test_every_weight_is_a_finite_bfloat16(header: dict[str, Any], data: bytes) -> None:
    assert {each["dtype"] for each in header.values()} == {"BF16"}
    count = sum(math.prod(each["shape"]) for each in header.values())
    (size,) = struct.unpack_from("<Q", data)
    codes = np.frombuffer(data, "<u2", offset=8 + size)
    assert codes.size == count
    assert ((codes & BF16_EXPONENT) != BF16_EXPONENT).all()


def test_the_chat_template_is_the_built_in_one() -> None:
    assert read_json("tokenizer_config.json")["chat_template"] == BUILT_IN
    assert not list(WEIGHTS.glob("chat_template.*"))
