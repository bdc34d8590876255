"""Random weights: the shapes of the model, the same at every start, and no tokenizer needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ernie_backend.chat.missing_tokenizer import MissingTokenizer
from ernie_backend.model_config import ModelConfig
from ernie_backend.start import start_engine
from ernie_backend.weights.dummy import DummyCheckpoint
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.roles import Role
from ernie_kernels.formats import Int8Weight, bfloat16_to_float32
from ernie_wire.errors import InvalidValue
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters

DENSE = Path(__file__).parents[2] / "data" / "dense"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A model directory with a config.json and nothing else."""
    shutil.copy(DENSE / "config.json", tmp_path)
    return tmp_path


def test_values_are_of_the_size_of_trained_weights(bare: Path) -> None:
    checkpoint = DummyCheckpoint(bare, ModelConfig.from_directory(bare))
    values = bfloat16_to_float32(checkpoint.tensor("model.embed_tokens.weight").view(np.uint16))
    assert values.shape == checkpoint.shape("model.embed_tokens.weight")
    assert 2**-6 <= np.abs(values).min() <= np.abs(values).max() < 2**-5
    assert abs(values.mean()) < 1e-3
    again = DummyCheckpoint(bare, ModelConfig.from_directory(bare)).tensor("model.embed_tokens.weight")
    assert np.array_equal(again, checkpoint.tensor("model.embed_tokens.weight"))
    assert not np.array_equal(
        checkpoint.tensor("model.layers.0.mlp.up_proj.weight"),
        checkpoint.tensor("model.layers.1.mlp.up_proj.weight"),
    )


def test_every_weight_is_there_in_its_format(bare: Path) -> None:
    config = ModelConfig.from_directory(bare)
    with CheckpointWeights.dummy(bare, config, "bfloat16", "wint8") as weights:
        qkv = weights.linear(Role.QKV, config.num_layers - 1)
        assert isinstance(qkv, Int8Weight)
        assert len(qkv.scales) == (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        assert (weights.vector(Role.FINAL_NORM) == 1).all()


def test_an_engine_without_tokenizer_takes_and_gives_token_ids(bare: Path) -> None:
    started = start_engine({"model": str(bare), "load_choices": "dummy", "dtype": "float32"})
    assert started.ready.description["has_tokenizer"] is False
    sampling = SamplingParameters(max_tokens=4, ignore_eos=True)
    request = GenerateRequest("a", input_ids=(5, 6, 7), sampling=sampling)
    assert started.engine.submit(started.preparation.prepare(request)) is None
    (output,) = [output for _ in range(4) for output in started.engine.step()]
    assert len(output.token_ids) == 4
    assert (output.text, output.finish_reason) == ("", "length")
    messages = {"messages": [{"role": "user", "content": "x"}]}
    for text_request in (GenerateRequest("b", text_input="hello"), GenerateRequest("c", messages=messages)):
        with pytest.raises(InvalidValue, match=r"has no tokenizer\.model; send token ids"):
            started.preparation.prepare(text_request)


def test_a_missing_tokenizer_makes_no_text(bare: Path) -> None:
    tokenizer = MissingTokenizer(bare, 640)
    assert tokenizer.decode([1, 2]) == ""
    assert tokenizer.token_bytes(3) == b""
