"""A rank reads its own part of a checkpoint, and whole only what it quantizes before it cuts it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.weights.checkpoints.files import Checkpoint
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.roles import Role
from ernie_backend.weights.sharding import Shard
from support.checkpoints.quantized_checkpoints import make
from support.paths import DATA

BY_OUTPUTS = (Role.EMBEDDING, Role.QKV, Role.GATE_UP, Role.EXPERT_GATE_UP, Role.HEAD)
BY_INPUTS = (Role.OUTPUT, Role.DOWN, Role.EXPERT_DOWN)
LAYERS = {Role.EXPERT_GATE_UP: 1, Role.EXPERT_DOWN: 1, Role.ROUTER: 1}


class Counted(np.ndarray[Any, Any]):
    """A view of a mapped tensor; what is computed of it, or copied, counts as read."""

    read = 0

    def __array_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Iterable[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        return func(*map(_read, args), **kwargs)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return getattr(ufunc, method)(*map(_read, inputs), **kwargs)

    def astype(self, *args: Any, **kwargs: Any) -> NDArray[Any]:
        converted: NDArray[Any] = _read(self).astype(*args, **kwargs)
        return converted


def _read(value: Any) -> Any:
    """Return an argument with plain arrays for the counted ones, which are counted."""
    if isinstance(value, list | tuple):
        return [_read(each) for each in value]
    if isinstance(value, Counted):
        Counted.read += value.nbytes
        return value.view(np.ndarray)
    return value


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = Checkpoint.tensor
    monkeypatch.setattr(Checkpoint, "tensor", lambda self, name: tensor(self, name).view(Counted))


def bytes_read(directory: Path, quantization: str | None, shard: Shard) -> dict[Role, int]:
    """Return how many bytes of the checkpoint a rank reads for one matrix of each role."""
    found = {}
    config = ModelConfig.from_directory(directory)
    with CheckpointWeights.open(directory, config, "bfloat16", quantization, shard=shard) as weights:
        for role in (*BY_OUTPUTS, *BY_INPUTS, Role.ROUTER):
            Counted.read = 0
            weights.linear(role, LAYERS.get(role, 0))
            found[role] = Counted.read
    return found


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    ("quantization", "read_whole"), [(None, ()), ("wint8", BY_INPUTS), ("wint4", BY_INPUTS)]
)
def test_a_rank_reads_its_part(quantization: str | None, read_whole: tuple[Role, ...], size: int) -> None:
    whole = bytes_read(DATA / "moe_tp", quantization, Shard())
    own = bytes_read(DATA / "moe_tp", quantization, Shard(size - 1, size))
    assert all(whole.values())
    for role, count in own.items():
        assert count * (1 if role in (*read_whole, Role.ROUTER) else size) == whole[role], role


@pytest.mark.parametrize("quantization", ["wint8", "w4a8"])
def test_of_a_quantized_checkpoint_too(quantization: str, tmp_path: Path) -> None:
    directory = make("moe_tp", tmp_path / "q", quantization)
    whole, own = (bytes_read(directory, quantization, shard) for shard in (Shard(), Shard(1, 4)))
    for role in (Role.EMBEDDING, Role.QKV, Role.GATE_UP, Role.EXPERT_GATE_UP):
        assert own[role] <= whole[role] / 4 + 4, role  # the scale of an expert's inputs is one for all
    for role in BY_INPUTS:
        assert own[role] < whole[role] / 3, role  # codes of its inputs, and the scales of all outputs
