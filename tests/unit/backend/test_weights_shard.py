"""Which part of which weight belongs to which rank: together the parts are the whole, and products add up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.moe_config import MoeConfig
from ernie_backend.errors import StartError
from ernie_backend.weights.roles import Role
from ernie_backend.weights.sharding import Part, Shard, check_split, experts_of, kv_heads_of, part_of, shard_of

HIDDEN = 6
CONFIG = ModelConfig(
    architecture="Ernie4_5_MoeForCausalLM",
    vocab_size=40,
    hidden_size=HIDDEN,
    intermediate_size=24,
    num_layers=2,
    num_heads=8,
    num_kv_heads=4,
    head_dim=2,
    rms_norm_eps=1e-5,
    rope_theta=1e4,
    rotary_axes=(),
    compression_ratio=1.0,
    max_position_embeddings=64,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_ids=(2,),
    pad_token_id=0,
    moe=MoeConfig(
        num_experts=12,
        experts_per_token=2,
        intermediate_size=16,
        num_shared_experts=2,
        layers=(1,),
    ),
)
QKV_ROWS = (8 + 2 * 4) * 2
RANDOM = np.random.default_rng(5)


def ranks(size: int, is_expert_parallel: bool = False) -> list[Shard]:
    return [Shard(rank, size, is_expert_parallel) for rank in range(size)]


def cut(matrix: NDArray[np.float64], part: Part) -> NDArray[np.float64]:
    columns = slice(part.columns.start, part.columns.stop)
    return np.concatenate([matrix[rows.start : rows.stop, columns] for rows in part.rows])


def test_qkv_gives_each_rank_whole_heads_of_queries_keys_and_values() -> None:
    # 8 query heads of 2 rows are rows 0 to 15, 4 key heads rows 16 to 23, 4 value heads rows 24 to 31.
    part = part_of(Role.QKV, (QKV_ROWS, HIDDEN), CONFIG, Shard(1, 4))
    assert part == Part((range(4, 8), range(18, 20), range(26, 28)), range(HIDDEN))


@pytest.mark.parametrize("role", [Role.GATE_UP, Role.EXPERT_GATE_UP, Role.SHARED_GATE_UP])
def test_gate_and_up_rows_are_cut_apart(role: Role) -> None:
    assert part_of(role, (48, HIDDEN), CONFIG, Shard(1, 2)).rows == (range(12, 24), range(36, 48))


@pytest.mark.parametrize("role", [Role.EMBEDDING, Role.HEAD])
def test_the_vocabulary_is_cut_by_rows(role: Role) -> None:
    assert part_of(role, (40, HIDDEN), CONFIG, Shard(3, 4)) == Part((range(30, 40),), range(HIDDEN))


def test_a_router_is_whole_on_every_rank() -> None:
    assert part_of(Role.ROUTER, (12, HIDDEN), CONFIG, Shard(1, 2)) == Part((range(12),), range(HIDDEN))


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("role", [Role.QKV, Role.GATE_UP, Role.HEAD, Role.OUTPUT, Role.DOWN])
def test_the_parts_of_all_ranks_are_the_matrix_exactly_once(role: Role, size: int) -> None:
    outputs = QKV_ROWS if role is Role.QKV else 48
    inputs = 24
    seen = np.zeros((outputs, inputs), np.int64)
    for shard in ranks(size):
        part = part_of(role, (outputs, inputs), CONFIG, shard)
        for rows in part.rows:
            seen[rows.start : rows.stop, part.columns.start : part.columns.stop] += 1
        assert part.shape == cut(np.zeros((outputs, inputs)), part).shape
    assert (seen == 1).all()


@pytest.mark.parametrize("size", [2, 4])
def test_an_mlp_is_the_sum_of_its_parts(size: int) -> None:
    x = RANDOM.normal(size=(3, HIDDEN))
    gate_up, down = RANDOM.normal(size=(48, HIDDEN)), RANDOM.normal(size=(HIDDEN, 24))

    def mlp(gate_up: NDArray[np.float64], down: NDArray[np.float64]) -> NDArray[np.float64]:
        gate, up = np.split(x @ gate_up.T, 2, axis=1)
        product: NDArray[np.float64] = (np.tanh(gate) * up) @ down.T
        return product

    total = sum(
        mlp(
            cut(gate_up, part_of(Role.GATE_UP, (48, HIDDEN), CONFIG, shard)),
            cut(down, part_of(Role.DOWN, (HIDDEN, 24), CONFIG, shard)),
        )
        for shard in ranks(size)
    )
    np.testing.assert_allclose(total, mlp(gate_up, down), rtol=1e-12)


def test_expert_parallelism_spreads_whole_experts_and_still_cuts_the_rest() -> None:
    shards = ranks(3, is_expert_parallel=True)
    assert [list(experts_of(Role.EXPERT_DOWN, 12, shard)) for shard in shards] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    assert part_of(Role.EXPERT_DOWN, (HIDDEN, 24), CONFIG, shards[1]).columns == range(24)
    assert part_of(Role.EXPERT_GATE_UP, (48, HIDDEN), CONFIG, shards[1]).rows == (range(48),)
    assert part_of(Role.SHARED_DOWN, (HIDDEN, 24), CONFIG, shards[1]).columns == range(8, 16)
    assert experts_of(Role.EXPERT_DOWN, 12, Shard(1, 3)) == range(12)


def test_pieces_find_the_rows_in_the_tensors_that_make_up_a_matrix() -> None:
    part = part_of(Role.QKV, (QKV_ROWS, HIDDEN), CONFIG, Shard(1, 2))
    assert list(part.pieces([16, 8, 8])) == [(0, range(8, 16)), (1, range(4, 8)), (2, range(4, 8))]
    assert list(part.pieces([32])) == [(0, range(8, 16)), (0, range(20, 24)), (0, range(28, 32))]
    assert list(Part((range(6, 20),), range(1)).pieces([8, 8, 8])) == [
        (0, range(6, 8)),
        (1, range(8)),
        (2, range(4)),
    ]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_sizes_that_divide_everything_are_taken(size: int) -> None:
    check_split(CONFIG, Shard(0, size))
    check_split(CONFIG, Shard(0, size, is_expert_parallel=True))


def test_a_size_that_does_not_divide_is_refused_with_the_possible_ones() -> None:
    with pytest.raises(StartError, match=r"is 3, .* 1, 2, 4$"):
        check_split(CONFIG, Shard(0, 3))


def test_the_possible_sizes_are_those_of_the_flag_however_large_a_model_is() -> None:
    huge = dict.fromkeys(("num_heads", "num_kv_heads", "intermediate_size", "vocab_size"), 3 << 40)
    with pytest.raises(StartError, match=r" 1, 2, 3, 4, .*, 768, 1024$"):
        check_split(replace(CONFIG, moe=None, **huge), Shard(0, 5))  # type: ignore[arg-type]


def test_key_heads_are_not_doubled() -> None:
    with pytest.raises(StartError, match=r"4 key .* 1, 2, 4$"):
        check_split(CONFIG, Shard(0, 8))


def test_experts_and_the_vocabulary_are_all_that_expert_parallelism_must_divide() -> None:
    config = replace(CONFIG, moe=replace(CONFIG.moe, num_experts=6)) if CONFIG.moe else CONFIG
    check_split(config, Shard(0, 4))
    with pytest.raises(StartError, match=r"6 experts .* 1, 2$"):
        check_split(config, Shard(0, 4, is_expert_parallel=True))
    check_split(replace(config, num_heads=5, num_kv_heads=1), Shard(0, 2, is_expert_parallel=True))


def test_heads_that_cannot_be_cut_are_whole_on_every_rank_with_expert_parallelism() -> None:
    config = replace(CONFIG, num_heads=5, num_kv_heads=1)
    first, second = (shard_of(config, rank, 2, is_expert_parallel=True) for rank in range(2))
    rows = (5 + 2 * 1) * 2
    for shard in (first, second):
        assert part_of(Role.QKV, (rows, HIDDEN), config, shard).shape == (rows, HIDDEN)
        assert part_of(Role.SHARED_DOWN, (HIDDEN, 32), config, shard).columns == range(32)
        assert kv_heads_of(config, shard) == range(1)
        assert part_of(Role.HEAD, (40, HIDDEN), config, shard).shape == (20, HIDDEN)
    assert [len(experts_of(Role.SHARED_DOWN, 1, shard)) for shard in (first, second)] == [1, 0]
    assert [list(experts_of(Role.EXPERT_DOWN, 12, shard)) for shard in (first, second)] == [
        list(range(6)),
        list(range(6, 12)),
    ]


def test_expert_parallelism_cuts_the_rest_where_it_can_and_means_nothing_without_experts() -> None:
    assert shard_of(CONFIG, 1, 2, is_expert_parallel=True) == Shard(1, 2, is_expert_parallel=True)
    assert shard_of(replace(CONFIG, moe=None), 1, 2, is_expert_parallel=True) == Shard(1, 2)


def test_hadamard_blocks_stay_whole() -> None:
    check_split(CONFIG, Shard(0, 4), block=4)
    complaint = "moe_intermediate_size .* 1, 2, .*enable_expert_p"
    with pytest.raises(StartError, match=complaint):
        check_split(CONFIG, Shard(0, 4), block=8)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("is_expert_parallel", [False, True])
def test_blocks_that_experts_do_not_have_are_refused_for_any_group(size: int, is_expert_parallel: bool) -> None:
    with pytest.raises(StartError, match=r"moe_intermediate_size 16 .* 32"):
        check_split(CONFIG, Shard(0, size, is_expert_parallel), block=32)
