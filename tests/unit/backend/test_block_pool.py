"""The free list and the block tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.kv.block_pool import BlockPool


def test_blocks_come_back_in_the_order_they_were_given_back() -> None:
    pool = BlockPool(3)
    first, second, third = pool.take(3)
    pool.give_back([third, first])
    assert pool.take(2) == [third, first]
    assert pool.num_free == 0
    pool.give_back([second])
    pool.check_integrity()


def test_taking_too_many_takes_none() -> None:
    pool = BlockPool(2)
    with pytest.raises(ValueError, match="3 blocks wanted, 2 are free"):
        pool.take(3)
    assert pool.num_free == 2


def test_giving_back_twice_is_an_error() -> None:
    pool = BlockPool(2)
    blocks = pool.take(1)
    pool.give_back(blocks)
    with pytest.raises(ValueError, match="twice"):
        pool.give_back(blocks)


def test_integrity_check_sees_a_leaked_block() -> None:
    blocks = BlockManager(4, 2)
    blocks.grow("a", 3)
    blocks._tables.clear()
    with pytest.raises(ValueError, match="0 blocks are owned and 2 free, of 4"):
        blocks.check_integrity()


def test_integrity_check_sees_a_block_in_two_tables() -> None:
    blocks = BlockManager(4, 2)
    blocks.grow("a", 3)
    blocks._tables["b"] = list(blocks.table("a"))
    with pytest.raises(ValueError, match="two tables"):
        blocks.check_integrity()


def test_headroom_stays_free() -> None:
    blocks = BlockManager(4, 2)
    assert not blocks.grow("a", 6, headroom=2)
    assert blocks.num_free == 4
    assert blocks.grow("a", 6, headroom=1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12))))
def test_tables_only_grow_and_hold_what_was_asked(asked: list[tuple[str, int]]) -> None:
    blocks = BlockManager(6, 3)
    for request_id, num_tokens in asked:
        before = blocks.table(request_id)
        if num_tokens == 0:
            blocks.free(request_id)
            assert blocks.table(request_id) == ()
        elif blocks.grow(request_id, num_tokens):
            after = blocks.table(request_id)
            assert after[: len(before)] == before
            assert len(after) * 3 >= num_tokens
        else:
            assert blocks.table(request_id) == before
        blocks.check_integrity()
