"""Block tables: which KV cache blocks hold which tokens of which request.

    tokens of a request   0 .. block_size-1 | block_size .. 2*block_size-1 | ...
    its block table            [block 7     ,            block 2           , ...]

A table only grows until the request frees all of it. With prefix caching, a full block whose tokens are
computed gets a hash (``block_hash``), keeps its content after its request, and begins the tables of later
requests that have the same first tokens. Only full blocks are shared, and never the one with a request's last
token: that token is computed again, since a token must be sampled from its logits. So no request writes into a
block that another reads. A table is freed last block first: the end of a prefix is evicted before its
beginning, without which it could not be found.
"""

from __future__ import annotations

from ernie_backend.kv.block_hash import extend_hashes
from ernie_backend.kv.block_pool import BlockPool
from ernie_backend.request.sequence import Sequence


class BlockManager:
    """Allocates blocks to requests, a table for each.

    Attributes:
        block_size: tokens of a block.
        num_queried_tokens: tokens of admitted requests that were looked up in the prefix cache.
        num_hit_tokens: of these, those that were found.
    """

    def __init__(self, num_blocks: int, block_size: int, *, enable_prefix_caching: bool = True) -> None:
        self.block_size = block_size
        self.num_queried_tokens = 0
        self.num_hit_tokens = 0
        self._enable_prefix_caching = enable_prefix_caching
        self._pool = BlockPool(num_blocks)
        self._tables: dict[str, list[int]] = {}
        self._hashes: dict[str, list[bytes]] = {}
        self._scheduled: set[bytes] = set()

    @property
    def num_blocks(self) -> int:
        """All blocks."""
        return self._pool.num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that no request uses; they may hold cached content."""
        return self._pool.num_free

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks hold ``num_tokens`` tokens."""
        return -(-num_tokens // self.block_size)

    def table(self, request_id: str) -> tuple[int, ...]:
        """Return the block table of a request; empty if it owns nothing."""
        return tuple(self._tables.get(request_id, ()))

    def allocate(self, sequence: Sequence, *, headroom: int = 0, reuse: bool = True) -> int | None:
        """Give a request that owns nothing blocks for all its tokens, those in the prefix cache first.

        Args:
            sequence: the request.
            headroom: blocks that must stay free afterwards.
            reuse: whether to look into the prefix cache.

        Returns:
            How many tokens are in the KV cache already, less than all; None if too few blocks are free: then
            nothing has changed.
        """
        cached = self._cached_blocks(sequence) if reuse else []
        missing = self.blocks_for(sequence.num_tokens) - len(cached)
        # Cached blocks without a reference are on the free list too, and leave it when they are touched.
        num_idle = sum(not self._pool.ref_count(block) for block in cached)
        if missing + num_idle + headroom > self._pool.num_free:
            return None
        # Touch first: allocating could evict the very blocks that were found.
        self._pool.touch(cached)
        self._tables[sequence.request_id] = cached + self._pool.allocate(missing)
        num_hit = len(cached) * self.block_size
        if reuse and self._enable_prefix_caching:
            self.num_queried_tokens += sequence.num_tokens
            self.num_hit_tokens += num_hit
        return num_hit

    def grow(self, request_id: str, num_tokens: int) -> bool:
        """Make the table of a request hold ``num_tokens`` tokens.

        Returns:
            Whether there were enough free blocks; if not, nothing has changed.
        """
        table = self._tables.get(request_id, [])
        missing = self.blocks_for(num_tokens) - len(table)
        if missing > self._pool.num_free:
            return False
        if missing > 0:
            self._tables[request_id] = table + self._pool.allocate(missing)
        return True

    def begin_step(self) -> None:
        """Forget what was scheduled: a new step is planned."""
        self._scheduled.clear()

    def mark_scheduled(self, sequence: Sequence, start: int, end: int) -> None:
        """Note that the step being planned computes the tokens ``start`` to ``end`` of a request."""
        first, last = start // self.block_size, end // self.block_size
        if self._enable_prefix_caching and first < last:
            self._scheduled.update(self._hashes_of(sequence, last)[first:last])

    def is_scheduled(self, sequence: Sequence) -> bool:
        """Whether the next block that a request could share is computed in the step being planned."""
        hashes = self._sharable_hashes(sequence)
        num_cached = len(self._cached_blocks(sequence))
        return num_cached < len(hashes) and hashes[num_cached] in self._scheduled

    def num_cached_tokens(self, sequence: Sequence) -> int:
        """Return how many tokens of a request that owns nothing are in the prefix cache now."""
        return len(self._cached_blocks(sequence)) * self.block_size

    def cache_blocks(self, sequence: Sequence, start: int, end: int) -> None:
        """Make the full blocks among the tokens ``start`` to ``end`` findable: they are in the KV cache now."""
        first, last = start // self.block_size, end // self.block_size
        if self._enable_prefix_caching and first < last:
            table, hashes = self._tables[sequence.request_id], self._hashes_of(sequence, last)
            for index in range(first, last):
                self._pool.cache(table[index], hashes[index])

    def free(self, request_id: str, *, keep_content: bool = True) -> None:
        """Free all blocks of a request, if it owns any.

        Args:
            request_id: whose blocks.
            keep_content: whether later requests may find what is in them.
        """
        table = self._tables.pop(request_id, [])
        self._hashes.pop(request_id, None)
        if not keep_content:
            for block in table:
                self._pool.evict(block)
        self._pool.free(reversed(table))

    def check_integrity(self) -> None:
        """Check that every block has as many references as tables hold it, and is shared only for equal tokens.

        Raises:
            ValueError: a block is leaked or wrongly shared.
        """
        self._pool.check_integrity()
        counts = [0] * self.num_blocks
        content: dict[int, tuple[int, bytes | None]] = {}
        for request_id, table in self._tables.items():
            hashes = self._hashes.get(request_id, [])
            for index, block in enumerate(table):
                counts[block] += 1
                held = (index, hashes[index] if index < len(hashes) else None)
                if counts[block] > 1 and (held[1] is None or content[block] != held):
                    raise ValueError(f"block {block} is in two tables for different tokens: {self._tables}")
                content[block] = held
        if counts != [self._pool.ref_count(block) for block in range(self.num_blocks)]:
            raise ValueError(f"reference counts differ from the tables: {self._tables}")

    def _cached_blocks(self, sequence: Sequence) -> list[int]:
        """Return the cached blocks that a request can begin with."""
        blocks = []
        for block_hash in self._sharable_hashes(sequence):
            block = self._pool.cached_block(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def _sharable_hashes(self, sequence: Sequence) -> list[bytes]:
        """Return the hashes of the blocks that may be shared: full ones before the last token."""
        if not self._enable_prefix_caching:
            return []
        num_sharable = (sequence.num_tokens - 1) // self.block_size
        return self._hashes_of(sequence, num_sharable)[:num_sharable]

    def _hashes_of(self, sequence: Sequence, num_blocks: int) -> list[bytes]:
        hashes = self._hashes.setdefault(sequence.request_id, [])
        extend_hashes(hashes, sequence, num_blocks, self.block_size)
        return hashes
