"""The free list and the block tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.kv.block_pool import BlockPool
from fakes.sequences import with_prompt


def test_blocks_without_a_hash_are_allocated_first_then_the_longest_free() -> None:
    pool = BlockPool(4)
    first, second, third, fourth = pool.allocate(4)
    for block in (first, third, fourth):
        pool.cache(block, bytes([block]))
    pool.free([third, second, first, fourth])
    assert pool.allocate(4) == [second, third, first, fourth]
    assert [pool.cached_block(bytes([block])) for block in (first, third, fourth)] == [None] * 3
    pool.check_integrity()


def test_content_is_kept_while_there_are_blocks_that_never_held_any() -> None:
    pool = BlockPool(4)
    first, second = pool.allocate(2)
    pool.cache(first, b"x")
    pool.free([first, second])
    assert pool.allocate(1) == [second], "used before, and its memory is there"
    assert set(pool.allocate(2)) == {2, 3}
    assert pool.cached_block(b"x") == first


def test_a_shared_block_is_free_when_its_last_reference_is_gone() -> None:
    pool = BlockPool(2)
    (block,) = pool.allocate(1)
    pool.cache(block, b"x")
    pool.touch([block])
    pool.free([block])
    assert pool.num_free == 1
    pool.free([block])
    assert (pool.num_free, pool.cached_block(b"x")) == (2, block)
    pool.touch([block])
    assert (pool.num_free, pool.ref_count(block)) == (1, 1)
    pool.check_integrity()


def test_a_hash_stays_with_its_first_block() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    pool.cache(first, b"x")
    pool.cache(second, b"x")
    assert pool.cached_block(b"x") == first
    pool.evict(second)
    assert pool.cached_block(b"x") == first
    pool.evict(first)
    assert pool.cached_block(b"x") is None
    pool.check_integrity()


def test_allocating_too_many_allocates_none() -> None:
    pool = BlockPool(2)
    with pytest.raises(ValueError, match="3 blocks"):
        pool.allocate(3)
    assert pool.num_free == 2


def test_freeing_twice_is_an_error() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    pool.free(blocks)
    with pytest.raises(ValueError, match="twice"):
        pool.free(blocks)


def test_integrity_check_sees_a_leaked_block() -> None:
    blocks = BlockManager(4, 2)
    blocks.grow("a", 3)
    blocks._tables.clear()
    with pytest.raises(ValueError, match="reference counts"):
        blocks.check_integrity()


def test_integrity_check_sees_a_block_in_two_tables() -> None:
    blocks = BlockManager(4, 2)
    blocks.allocate(with_prompt("a", (1, 2, 3)))
    blocks._tables["b"] = list(blocks.table("a"))
    with pytest.raises(ValueError, match="two tables for different tokens"):
        blocks.check_integrity()


def test_integrity_check_sees_a_hash_without_a_block() -> None:
    pool = BlockPool(2)
    pool.cache(pool.allocate(1)[0], b"x")
    pool._hash_of.clear()
    with pytest.raises(ValueError, match="hashes"):
        pool.check_integrity()


def test_headroom_stays_free() -> None:
    blocks = BlockManager(4, 2)
    assert blocks.allocate(with_prompt("a", range(6)), headroom=2) is None
    assert blocks.num_free == 4
    assert blocks.allocate(with_prompt("a", range(6)), headroom=1) == 0


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
