"""The KV cache blocks: their reference counts, which are free, and which hold cached content.

A block without references is free. A free block keeps its content, and its hash if it has one, until it is
allocated again: the free list is the order of eviction.

    allocated first ->  without a hash | with a hash, longest free ... with a hash, just freed

A hash belongs to one block at most: when two requests have computed the same tokens at once, the second block
stays without a hash, because exchanging it for the first would change a block table that is in use.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class BlockPool:
    """Blocks 0 to ``num_blocks`` - 1, all free and without hashes at first."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._ref_counts = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks without references: those that can be allocated now."""
        return len(self._free)

    def ref_count(self, block: int) -> int:
        """Return how many requests use a block."""
        return self._ref_counts[block]

    def cached_block(self, block_hash: bytes) -> int | None:
        """Return the block with this hash, referenced or free."""
        return self._block_of.get(block_hash)

    def allocate(self, count: int) -> list[int]:
        """Take ``count`` free blocks in the order of eviction; they lose their hashes.

        Raises:
            ValueError: fewer are free; nothing is allocated.
        """
        if count > len(self._free):
            raise ValueError(f"{count} blocks requested, {len(self._free)} are free")
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self.evict(block)
            self._ref_counts[block] = 1
        return blocks

    def touch(self, blocks: Iterable[int]) -> None:
        """Add a reference to blocks whose content is reused."""
        for block in blocks:
            self._free.pop(block, None)
            self._ref_counts[block] += 1

    def free(self, blocks: Iterable[int]) -> None:
        """Drop a reference to each block; of those that become free, the first in ``blocks`` is evicted first.

        Raises:
            ValueError: a block has no reference.
        """
        for block in blocks:
            if not self._ref_counts[block]:
                raise ValueError(f"block {block} is freed twice")
            self._ref_counts[block] -= 1
            if not self._ref_counts[block]:
                # What holds no cached content goes to the front: it costs nothing to overwrite.
                self._free[block] = None
                self._free.move_to_end(block, last=block in self._hash_of)

    def cache(self, block: int, block_hash: bytes) -> None:
        """Make the block findable by its hash, unless another block has it."""
        if block_hash not in self._block_of:
            self.evict(block)
            self._block_of[block_hash] = block
            self._hash_of[block] = block_hash

    def evict(self, block: int) -> None:
        """Drop a block's hash, if it has one: its content cannot be found any more."""
        block_hash = self._hash_of.pop(block, None)
        if block_hash is not None:
            del self._block_of[block_hash]

    def check_integrity(self) -> None:
        """Check that exactly the blocks without references are free, and that hashes and blocks are one to one.

        Raises:
            ValueError: that is not so.
        """
        unused = {block for block, count in enumerate(self._ref_counts) if not count}
        if set(self._free) != unused:
            raise ValueError(
                f"free list {sorted(self._free)} and blocks without references {sorted(unused)} differ"
            )
        if {block_hash: block for block, block_hash in self._hash_of.items()} != self._block_of:
            raise ValueError("the hashes of blocks and the blocks of hashes differ")
