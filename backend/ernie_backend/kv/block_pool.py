"""The KV cache blocks: who uses them, which are free, and which hold something worth keeping.

Every block has a number of users; one without users is free. A free block keeps its content, and its name if
it has one, until it is taken: the free list is the order of eviction.

    taken first ->  without a name | named, longest free ... named, just freed

A name belongs to one block at most: when two requests computed the same tokens at once, the second block stays
without a name, because exchanging it for the first would change a block table that is in use. This module must
not know sequences, nor how names are made.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class BlockPool:
    """Blocks 0 to ``num_blocks`` - 1, all free and without names at first."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._users = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._name_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks without users: those that can be taken now."""
        return len(self._free)

    def num_users(self, block: int) -> int:
        """Return how many requests use a block."""
        return self._users[block]

    def find(self, name: bytes) -> int | None:
        """Return the block with this name, used or free."""
        return self._block_of.get(name)

    def take(self, count: int) -> list[int]:
        """Take ``count`` free blocks in the order of eviction; they lose their names.

        Raises:
            ValueError: fewer are free; nothing is taken.
        """
        if count > len(self._free):
            raise ValueError(f"{count} blocks wanted, {len(self._free)} are free")
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self.forget(block)
            self._users[block] = 1
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Add a user to blocks for the sake of their content."""
        for block in blocks:
            self._free.pop(block, None)
            self._users[block] += 1

    def give_back(self, blocks: Iterable[int]) -> None:
        """Take a user from blocks; of those that become free, the first given back is evicted first.

        Raises:
            ValueError: a block has no user.
        """
        for block in blocks:
            if not self._users[block]:
                raise ValueError(f"block {block} is given back twice")
            self._users[block] -= 1
            if not self._users[block]:
                self._free[block] = None
                self._free.move_to_end(block, last=block in self._name_of)

    def name(self, block: int, name: bytes) -> None:
        """Name a block after its content, unless another block has the name."""
        if name not in self._block_of:
            self.forget(block)
            self._block_of[name] = block
            self._name_of[block] = name

    def forget(self, block: int) -> None:
        """Take a block's name away, if it has one: its content will not be found any more."""
        name = self._name_of.pop(block, None)
        if name is not None:
            del self._block_of[name]

    def check_integrity(self) -> None:
        """Check that exactly the blocks without users are free, and that names and blocks are one to one.

        Raises:
            ValueError: that is not so.
        """
        unused = {block for block, users in enumerate(self._users) if not users}
        if set(self._free) != unused:
            raise ValueError(f"free list {sorted(self._free)} and blocks without users {sorted(unused)} differ")
        if {name: block for block, name in self._name_of.items()} != self._block_of:
            raise ValueError("the names of blocks and the blocks of names differ")
