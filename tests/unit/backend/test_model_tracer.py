"""Model files only call ops: arrays that allow nothing at all go through them unharmed."""

from __future__ import annotations

from typing import Any

import pytest

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.models.load import load_model
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_kernels.api import Ops
from ernie_kernels.formats import ActivationType
from support.paths import DENSE

MOE = DENSE.parent / "moe"
OPERATORS = [
    "add",
    "radd",
    "iadd",
    "sub",
    "rsub",
    "mul",
    "rmul",
    "matmul",
    "rmatmul",
    "truediv",
    "rtruediv",
    "floordiv",
    "mod",
    "pow",
    "neg",
    "pos",
    "abs",
    "and",
    "or",
    "xor",
    "invert",
    "lt",
    "le",
    "gt",
    "ge",
    "eq",
    "ne",
    "bool",
    "len",
    "iter",
    "getitem",
    "setitem",
    "contains",
    "float",
    "int",
    "index",
    "array",
    "call",
    "hash",
    "repr",
    "str",
]


class Touched(Exception):
    """Something looked inside an array."""


class Opaque:
    """An array that raises on any operator and any attribute."""

    def __getattribute__(self, name: str) -> Any:
        raise Touched(name)


def _refuse(name: str) -> Any:
    def method(*_arguments: object) -> Any:
        raise Touched(name)

    return method


for _operator in OPERATORS:
    setattr(Opaque, f"__{_operator}__", _refuse(_operator))


class TracerOps:
    """Answers every op with opaque arrays; ``calls`` are the names of the ops called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name not in dir(Ops):
            raise AttributeError(name)

        def op(*_arguments: object) -> Any:
            self.calls.append(name)
            return (Opaque(), Opaque()) if name in ("add_norm", "add_layer_norm") else Opaque()

        return op


def settings() -> LoadSettings:
    return LoadSettings("bfloat16", "wint8", ActivationType.INT8, max_model_len=64)


def test_the_opaque_array_refuses() -> None:
    for touch in (
        lambda array: array + array,
        lambda array: array[0],
        lambda array: array.shape,
        lambda array: len(array),
        lambda array: bool(array),
        lambda array: array == array,
        lambda array: 2 * array,
    ):
        with pytest.raises(Touched):
            touch(Opaque())


def test_the_model_never_looks_inside_an_array() -> None:
    ops = TracerOps()
    model = load_model(DENSE, ModelConfig.from_directory(DENSE), ops, settings())
    assert model.cache_dtype == "bfloat16"
    ops.calls.clear()
    model.forward(Opaque(), [Opaque() for _ in range(3)])
    layer = ["linear", "attention", "linear", "all_reduce", "add_norm", "mlp", "all_reduce", "add_norm"]
    assert ops.calls == ["embed", "all_reduce", "norm", *layer * 3, "lm_head"]


def test_layers_with_experts_call_moe() -> None:
    ops = TracerOps()
    model = load_model(MOE, ModelConfig.from_directory(MOE), ops, settings())
    ops.calls.clear()
    model.forward(Opaque(), [Opaque() for _ in range(5)])
    transforms = [name for name in ops.calls if name in ("mlp", "moe")]
    assert transforms == ["mlp", "moe", "moe", "moe", "mlp"]


def test_one_cache_for_each_layer() -> None:
    model = load_model(DENSE, ModelConfig.from_directory(DENSE), TracerOps(), settings())
    with pytest.raises(ValueError, match="shorter"):
        model.forward(Opaque(), [Opaque()])


def test_a_tied_table_is_packed_once() -> None:
    ops = TracerOps()
    load_model(DENSE, ModelConfig.from_directory(DENSE), ops, settings())
    assert ops.calls.count("pack_linear") == 1 + 3 * 4
    assert ops.calls.count("pack_vector") == 1 + 3 * 2


@pytest.mark.parametrize(
    ("checkpoint", "merging"), [("vl_moe", ["merge_rows", "gelu_mlp"]), ("paddleocr_vl", [])]
)
def test_a_tower_never_looks_inside_an_array(checkpoint: str, merging: list[str]) -> None:
    ops, directory = TracerOps(), DENSE.parent / checkpoint
    model = load_model(directory, ModelConfig.from_directory(directory), ops, settings())
    assert model.vision is not None
    ops.calls.clear()
    assert sum(1 for _ in model.vision.encode(Opaque(), (1, 4, 4))) > 2
    layer = [
        "linear",
        "append_patches",
        "attend_patches",
        "linear",
        "add_layer_norm",
        "gelu_mlp",
        "add_layer_norm",
    ]
    begin = ops.calls.index("allocate_patches") + 1
    assert ops.calls[begin : begin + 15] == [*layer * 2, "concatenate"]
    assert ops.calls[-1] == "concatenate"
    assert set(merging) <= set(ops.calls[begin + 15 :])
