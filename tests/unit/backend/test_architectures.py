"""A new architecture is an entry of the table and a model file: nothing else names one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ernie_backend.config.architectures import (
    ARCHITECTURES,
    PADDLE,
    Architecture,
    TensorLayout,
)
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.devices.device import GIB, cpu
from ernie_backend.models.load import load_model
from ernie_backend.planning.memory_plan import plan_memory
from ernie_backend.planning.model_shape import read_shape
from ernie_backend.quantization.job import QuantizationJob
from ernie_backend.quantization.quantizer import quantize_checkpoint
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_kernels.formats import ActivationType, float32_to_bfloat16
from ernie_kernels.reference.ops import ReferenceOps
from support.checkpoints.paddle_layout import tensors_of
from support.checkpoints.planned_models import plan_settings
from support.checkpoints.quantized_checkpoints import TEXTS
from support.checkpoints.safetensors_writer import write_tensors
from support.paths import DENSE

MODEL_FILE = """
from ernie_backend.models.ernie4_5 import Ernie4_5ForCausalLM
from ernie_backend.weights.roles import Role


class ShallowForCausalLM(Ernie4_5ForCausalLM):
    def __init__(self, config, weights, ops, settings):
        super().__init__(config, weights, ops, settings)
        self.first_norm = weights.vector(Role.INPUT_NORM, 0)
"""
NAMES = {"q_proj": "wq", "k_proj": "wk", "v_proj": "wv", "gate_proj": "w1", "up_proj": "w3"}


def named(name: str) -> str:
    for old, new in NAMES.items():
        name = name.replace(old, new)
    return name.replace("model.", "decoder.", 1)


def test_a_new_architecture_is_one_entry_and_one_model_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = TensorLayout("shallow", "decoder.", ("wq", "wk", "wv"), ("w1", "w3"), is_transposed=False)
    entry = Architecture(
        "ShallowForCausalLM", "ShallowLM", "shallow_model_file:ShallowForCausalLM", layouts=(layout, PADDLE)
    )
    for spelling in (entry.name, entry.paddle_name):
        monkeypatch.setitem(ARCHITECTURES, spelling, entry)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shallow_model_file.py").write_text(MODEL_FILE)
    tensors = {named(name): values for name, values in tensors_of(DENSE).items()}
    norm = np.arange(64, dtype=np.float32)
    tensors["decoder.layers.0.input_layernorm.weight"] = float32_to_bfloat16(norm)
    write_tensors(tmp_path / "model.safetensors", tensors)
    fields = json.loads((DENSE / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "architectures": ["ShallowForCausalLM"]}))

    ours, theirs = (
        plan_memory(read_shape(path), plan_settings(), cpu(GIB)).weights for path in (tmp_path, DENSE)
    )
    assert ours == theirs
    how = QuantizationConfig("wint8", has_cache_scales=True)
    quantize_checkpoint(QuantizationJob(tmp_path, tmp_path / "quantized", how, texts=TEXTS), lambda line: None)
    for directory, quantization in ((tmp_path, None), (tmp_path / "quantized", "wint8")):
        settings = LoadSettings("float32", quantization, ActivationType.FLOAT32, max_model_len=64)
        model = load_model(directory, ModelConfig.from_directory(directory), ReferenceOps(), settings)
        assert type(model).__name__ == "ShallowForCausalLM"
        np.testing.assert_array_equal(vars(model)["first_norm"], norm)
    scales = model.cache_scales[0]
    assert scales is not None
    assert (scales.keys > 0).all()


def test_every_model_file_that_is_named_is_there() -> None:
    for architecture in ARCHITECTURES.values():
        module, name = architecture.model.split(":")
        assert hasattr(__import__(module, fromlist=[name]), name)
