"""Block tables: which KV cache blocks hold which tokens of which request.

    tokens of a request   0 .. block_size-1 | block_size .. 2*block_size-1 | ...
    its block table            [block 7     ,            block 2           , ...]

A table only grows until the request lets go of all of it. This module must not know scheduling policy, tensors
or what a token is.
"""

from __future__ import annotations

from ernie_backend.kv.block_pool import BlockPool


class BlockManager:
    """Gives blocks to requests, a table for each."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self._pool = BlockPool(num_blocks)
        self._tables: dict[str, list[int]] = {}

    @property
    def num_blocks(self) -> int:
        """All blocks."""
        return self._pool.num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that nobody owns."""
        return self._pool.num_free

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks hold ``num_tokens`` tokens."""
        return -(-num_tokens // self.block_size)

    def grow(self, request_id: str, num_tokens: int, headroom: int = 0) -> bool:
        """Make the table of a request hold ``num_tokens`` tokens.

        Args:
            request_id: whose table; it begins empty.
            num_tokens: tokens it must hold.
            headroom: blocks that must stay free afterwards.

        Returns:
            Whether there were enough free blocks; if not, nothing has changed.
        """
        table = self._tables.get(request_id, [])
        missing = self.blocks_for(num_tokens) - len(table)
        if missing > 0:
            if missing + headroom > self._pool.num_free:
                return False
            self._tables[request_id] = table + self._pool.take(missing)
        return True

    def table(self, request_id: str) -> tuple[int, ...]:
        """Return the block table of a request; empty if it owns nothing."""
        return tuple(self._tables.get(request_id, ()))

    def free(self, request_id: str) -> None:
        """Give back all blocks of a request; one that owns nothing is fine."""
        self._pool.give_back(self._tables.pop(request_id, ()))

    def check_integrity(self) -> None:
        """Check that every block is free or in exactly one table.

        Raises:
            ValueError: a block is leaked or owned twice.
        """
        self._pool.check_integrity()
        owned = [block for table in self._tables.values() for block in table]
        if len(set(owned)) != len(owned):
            raise ValueError(f"a block is in two tables: {self._tables}")
        if len(owned) + self._pool.num_free != self._pool.num_blocks:
            raise ValueError(
                f"{len(owned)} blocks are owned and {self._pool.num_free} free, of {self._pool.num_blocks}"
            )
