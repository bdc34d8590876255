"""Random weights: the shapes of the model, the same at every start, and no tokenizer needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.chat.tokenizer import NullTokenizer
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.service.start import start_engine
from ernie_backend.weights.dummy import DummyWeights
from ernie_backend.weights.precision import activation_of
from ernie_backend.weights.roles import Role
from ernie_kernels.formats import (
    ActivationType,
    Bfloat16Weight,
    Float32Weight,
    GroupedInt4Weight,
    Int4Weight,
    Int8Weight,
    dequantize,
    weight_codes,
)
from ernie_wire.errors import InvalidValue
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters
from support.paths import DENSE

MOE = DENSE.parent / "moe"

Floats = NDArray[np.float32]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A model directory with a config.json and nothing else."""
    shutil.copy(DENSE / "config.json", tmp_path)
    return tmp_path


def weights(quantization: str | None = None, model: Path = MOE, dtype: str = "bfloat16") -> DummyWeights:
    return DummyWeights(ModelConfig.from_directory(model), dtype, quantization)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_values_are_of_the_size_of_trained_weights(dtype: str) -> None:
    values = dequantize(weights(dtype=dtype).linear(Role.EMBEDDING))
    assert values.shape == (640, 80)
    assert 2**-6 <= np.abs(values).min() <= np.abs(values).max() < 2**-5
    assert abs(values.mean()) < 1e-3


@pytest.mark.parametrize("quantization", [None, "wint8", "wint4"])
def test_every_weight_is_another_and_the_same_at_every_start(quantization: str | None) -> None:
    def values(role: Role, layer: int, expert: int = 0) -> Floats:
        return dequantize(weights(quantization).linear(role, layer, expert))

    expert = values(Role.EXPERT_DOWN, 1, 2)
    assert np.array_equal(expert, values(Role.EXPERT_DOWN, 1, 2))
    assert not np.array_equal(expert, values(Role.EXPERT_DOWN, 1, 3))
    assert not np.array_equal(expert, values(Role.EXPERT_DOWN, 2, 2))
    assert not np.array_equal(values(Role.QKV, 0), values(Role.QKV, 1))


@pytest.mark.parametrize(
    ("quantization", "formats"),
    [
        (None, (Bfloat16Weight, Bfloat16Weight, Bfloat16Weight)),
        ("wint8", (Int8Weight, Int8Weight, Int8Weight)),
        ("wint4", (Int8Weight, Int8Weight, Int4Weight)),
        ("wint4_all", (GroupedInt4Weight, GroupedInt4Weight, Int4Weight)),
    ],
)
def test_every_weight_is_there_in_its_format(quantization: str | None, formats: tuple[type, ...]) -> None:
    made = weights(quantization)
    roles = (Role.QKV, Role.SHARED_DOWN, Role.EXPERT_DOWN)
    for role, expected, shape in zip(roles, formats, [(7 * 16, 80), (80, 48), (80, 24)], strict=True):
        weight = made.linear(role, 1, 15 if role is Role.EXPERT_DOWN else 0)
        assert isinstance(weight, expected)
        assert dequantize(weight).shape == shape
    router = made.linear(Role.ROUTER, 1)
    assert isinstance(router, Float32Weight)
    assert router.values.shape == (16, 80)


def test_int8_activations_keep_int16_for_qkv_and_dense_down_matrices() -> None:
    """docs/quality.md has the measurement; the goldens of int8 compare what a model computes with it."""
    int8 = ActivationType.INT8
    assert {role for role in Role if activation_of(role, int8) is not int8} == {Role.QKV, Role.DOWN}
    assert activation_of(Role.DOWN, int8) is ActivationType.INT16
    assert all(activation_of(Role.DOWN, each) is each for each in ActivationType if each is not int8)


def test_random_codes_use_the_whole_range() -> None:
    int8, int4 = weights("wint4").linear(Role.EMBEDDING), weights("wint4").linear(Role.EXPERT_GATE_UP, 1)
    assert isinstance(int8, Int8Weight)
    assert isinstance(int4, Int4Weight)
    assert set(weight_codes(int8).flat) == set(range(-127, 128))
    assert set(weight_codes(int4).flat) == set(range(-8, 8))
    for weight in (int8, int4):
        assert 2**-6 < np.abs(dequantize(weight)).max() <= 2**-5


def test_norms_are_one_and_biases_of_routers_zero() -> None:
    made = weights()
    np.testing.assert_array_equal(made.vector(Role.FINAL_NORM), np.ones(80, np.float32))
    np.testing.assert_array_equal(made.vector(Role.ROUTER_BIAS, 1), np.zeros(16, np.float32))


@pytest.mark.parametrize(("model", "quantization"), [(DENSE, ""), (MOE, "wint4")])
def test_an_engine_without_tokenizer_takes_and_gives_token_ids(
    bare: Path, model: Path, quantization: str
) -> None:
    shutil.copy(model / "config.json", bare)
    parameters = {"model": str(bare), "load_choices": "dummy", "dtype": "float32", "quantization": quantization}
    started = start_engine(parameters)
    assert started.ready.description.has_tokenizer is False
    sampling = SamplingParameters(max_tokens=4, ignore_eos=True)
    request = GenerateRequest("a", input_ids=(5, 6, 7), sampling=sampling)
    assert started.engine.submit(started.input_processor.process(request)) is None
    (output,) = [output for _ in range(4) for output in started.engine.step()]
    assert len(output.token_ids) == 4
    assert (output.text, output.finish_reason) == ("", "length")
    messages = b'{"messages": [{"role": "user", "content": "x"}]}'
    for text_request in (GenerateRequest("b", text_input="hello"), GenerateRequest("c", messages=messages)):
        with pytest.raises(InvalidValue, match=r"tokenizer\.model"):
            started.input_processor.process(text_request)


def test_a_missing_tokenizer_makes_no_text(bare: Path) -> None:
    tokenizer = NullTokenizer(bare, 640)
    assert tokenizer.decode([1, 2]) == ""
    assert tokenizer.token_bytes(3) == b""
