"""The free list and the block tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.kv.block_pool import BlockPool


def test_blocks_without_a_name_are_taken_first_then_the_longest_free() -> None:
    pool = BlockPool(4)
    first, second, third, fourth = pool.take(4)
    for block in (first, third, fourth):
        pool.name(block, bytes([block]))
    pool.give_back([third, second, first, fourth])
    assert pool.take(4) == [second, third, first, fourth]
    assert [pool.find(bytes([block])) for block in (first, third, fourth)] == [None] * 3
    pool.check_integrity()


def test_content_is_kept_while_there_are_blocks_that_never_held_any() -> None:
    pool = BlockPool(4)
    first, second = pool.take(2)
    pool.name(first, b"x")
    pool.give_back([first, second])
    assert pool.take(1) == [second], "used before, and its memory is there"
    assert set(pool.take(2)) == {2, 3}
    assert pool.find(b"x") == first


def test_a_shared_block_is_free_when_its_last_user_is_gone() -> None:
    pool = BlockPool(2)
    (block,) = pool.take(1)
    pool.name(block, b"x")
    pool.share([block])
    pool.give_back([block])
    assert pool.num_free == 1
    pool.give_back([block])
    assert (pool.num_free, pool.find(b"x")) == (2, block)
    pool.share([block])
    assert (pool.num_free, pool.num_users(block)) == (1, 1)
    pool.check_integrity()


def test_a_name_stays_with_its_first_block() -> None:
    pool = BlockPool(2)
    first, second = pool.take(2)
    pool.name(first, b"x")
    pool.name(second, b"x")
    assert pool.find(b"x") == first
    pool.forget(second)
    assert pool.find(b"x") == first
    pool.forget(first)
    assert pool.find(b"x") is None
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
    with pytest.raises(ValueError, match="other users than the tables say"):
        blocks.check_integrity()


def test_integrity_check_sees_a_block_in_two_tables() -> None:
    blocks = BlockManager(4, 2)
    blocks.admit("a", (1, 2, 3))
    blocks._tables["b"] = list(blocks.table("a"))
    with pytest.raises(ValueError, match="two tables for different tokens"):
        blocks.check_integrity()


def test_integrity_check_sees_a_name_without_a_block() -> None:
    pool = BlockPool(2)
    pool.name(pool.take(1)[0], b"x")
    pool._name_of.clear()
    with pytest.raises(ValueError, match="names"):
        pool.check_integrity()


def test_headroom_stays_free() -> None:
    blocks = BlockManager(4, 2)
    assert blocks.admit("a", range(6), headroom=2) is None
    assert blocks.num_free == 4
    assert blocks.admit("a", range(6), headroom=1) == 0


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
