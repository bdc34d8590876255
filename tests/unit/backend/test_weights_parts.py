"""What a rank loads is its part of what a single rank loads: numbers, codes and scales alike."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.roles import Role, WeightKey
from ernie_backend.weights.sharding import Shard, part_of
from ernie_kernels.formats import dequantize
from support.paths import DATA

MATRICES = [
    WeightKey(Role.EMBEDDING),
    WeightKey(Role.QKV, 0),
    WeightKey(Role.OUTPUT, 1),
    WeightKey(Role.GATE_UP, 0),
    WeightKey(Role.DOWN, 0),
    WeightKey(Role.ROUTER, 1),
    WeightKey(Role.EXPERT_GATE_UP, 1, 2),
    WeightKey(Role.EXPERT_DOWN, 1, 3),
    WeightKey(Role.HEAD),
]
CONFIG = ModelConfig.from_directory(DATA / "moe_tp")


def weights(quantization: str | None, shard: Shard, cache: Path | None = None) -> CheckpointWeights:
    return CheckpointWeights.open(DATA / "moe_tp", CONFIG, "bfloat16", quantization, cache, shard)


@pytest.mark.parametrize(
    ("quantization", "shard"),
    [
        *itertools.product(
            (None, "wint8", "wint4"), (Shard(0, 2), Shard(3, 4), Shard(1, 2, is_expert_parallel=True))
        ),
        ("wint4_all", Shard(1, 2)),  # of whole groups: a quarter of the attention's 128 inputs is not
    ],
)
def test_a_rank_has_its_part_of_every_matrix(quantization: str | None, shard: Shard) -> None:
    with weights(quantization, Shard()) as whole:
        matrices = {key: dequantize(whole.linear(*key)) for key in MATRICES}
    with weights(quantization, shard) as own:
        for key, matrix in matrices.items():
            part = part_of(key.role, (matrix.shape[0], matrix.shape[1]), CONFIG, shard)
            expected = np.concatenate(part.cut([matrix]))
            np.testing.assert_array_equal(dequantize(own.linear(*key)), expected)


def test_vectors_are_whole_on_every_rank() -> None:
    with weights(None, Shard()) as whole, weights(None, Shard(1, 4)) as own:
        for role, layer in ((Role.INPUT_NORM, 1), (Role.FINAL_NORM, 0), (Role.ROUTER_BIAS, 1)):
            np.testing.assert_array_equal(own.vector(role, layer), whole.vector(role, layer))


def test_ranks_share_a_cache_without_mixing_their_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ernie_backend.weights.checkpoints.quantized_cache.MIN_BYTES", 0)
    found = []
    for _ in range(2):
        for rank in range(2):
            with weights("wint8", Shard(rank, 2), tmp_path) as own:
                found.append(dequantize(own.linear(Role.DOWN)))
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[:2], found[2:])
    assert {path.parent.name for path in tmp_path.rglob("down.*")} == {"rank0of2", "rank1of2"}
