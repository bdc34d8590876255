"""The free list of KV cache blocks.

Every block is either free or taken, never both; the list is first in, first out, so that a freed block keeps
its content as long as possible (which is what hashed prefix blocks will want). This module must not know
sequences.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class BlockPool:
    """Blocks 0 to ``num_blocks`` - 1 and which of them are free."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = deque(range(num_blocks))
        self._is_free = [True] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that can be taken now."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Take ``count`` blocks, the longest free first.

        Raises:
            ValueError: fewer are free; nothing is taken.
        """
        if count > len(self._free):
            raise ValueError(f"{count} blocks wanted, {len(self._free)} are free")
        blocks = [self._free.popleft() for _ in range(count)]
        for block in blocks:
            self._is_free[block] = False
        return blocks

    def give_back(self, blocks: Iterable[int]) -> None:
        """Make taken blocks free again.

        Raises:
            ValueError: a block is free already.
        """
        for block in blocks:
            if self._is_free[block]:
                raise ValueError(f"block {block} is given back twice")
            self._is_free[block] = True
            self._free.append(block)

    def check_integrity(self) -> None:
        """Check that the free list and the marks agree.

        Raises:
            ValueError: they do not.
        """
        marked = {block for block, is_free in enumerate(self._is_free) if is_free}
        if len(self._free) != len(marked) or set(self._free) != marked:
            raise ValueError(f"free list {sorted(self._free)} and marks {sorted(marked)} differ")
