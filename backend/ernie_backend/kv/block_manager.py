"""Block tables: which KV cache blocks hold which tokens of which request.

    tokens of a request   0 .. block_size-1 | block_size .. 2*block_size-1 | ...
    its block table            [block 7     ,            block 2           , ...]

A table only grows until the request lets go of all of it. With prefix caching, a full block whose tokens are
computed gets a name (``block_names``), keeps its content after its request, and begins the tables of later
requests that have the same first tokens. Only full blocks are shared, and never the one with a request's last
token: that is computed again, since a token must be sampled from its logits. So nobody writes into a block
that others read. Blocks go free last to first: the end of a prefix is evicted before its beginning, without
which it could not be found.
"""

from __future__ import annotations

from collections.abc import Sequence

from ernie_backend.kv.block_hash import extend_names
from ernie_backend.kv.block_pool import BlockPool


class BlockManager:
    """Gives blocks to requests, a table for each.

    Attributes:
        block_size: tokens of a block.
        num_queried_tokens: tokens of admitted requests that were looked for in the prefix cache.
        num_hit_tokens: of these, those that were found.
    """

    def __init__(self, num_blocks: int, block_size: int, *, enable_prefix_caching: bool = True) -> None:
        self.block_size = block_size
        self.num_queried_tokens = 0
        self.num_hit_tokens = 0
        self._has_names = enable_prefix_caching
        self._pool = BlockPool(num_blocks)
        self._tables: dict[str, list[int]] = {}
        self._names: dict[str, list[bytes]] = {}
        self._announced: set[bytes] = set()

    @property
    def num_blocks(self) -> int:
        """All blocks."""
        return self._pool.num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that nobody uses; they may hold content that can be found."""
        return self._pool.num_free

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks hold ``num_tokens`` tokens."""
        return -(-num_tokens // self.block_size)

    def table(self, request_id: str) -> tuple[int, ...]:
        """Return the block table of a request; empty if it owns nothing."""
        return tuple(self._tables.get(request_id, ()))

    def admit(
        self,
        request_id: str,
        token_ids: Sequence[int],
        *,
        headroom: int = 0,
        reuse: bool = True,
        salt: str = "",
    ) -> int | None:
        """Give a request that owns nothing blocks for all its tokens, those found in the prefix cache first.

        Args:
            request_id: whose table.
            token_ids: all its tokens.
            headroom: blocks that must stay free afterwards.
            reuse: whether to look into the prefix cache.
            salt: only requests with the same one share blocks.

        Returns:
            How many tokens are in the KV cache already, less than all; None if too few blocks are free: then
            nothing has changed.
        """
        found = self._found(request_id, token_ids, salt) if reuse else []
        missing = self.blocks_for(len(token_ids)) - len(found)
        revived = sum(not self._pool.num_users(block) for block in found)
        if missing + revived + headroom > self._pool.num_free:
            return None
        self._pool.share(found)
        self._tables[request_id] = found + self._pool.take(missing)
        num_hit = len(found) * self.block_size
        if reuse and self._has_names:
            self.num_queried_tokens += len(token_ids)
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
            self._tables[request_id] = table + self._pool.take(missing)
        return True

    def begin_step(self) -> None:
        """Forget what was announced: a new step is planned."""
        self._announced.clear()

    def announce(
        self, request_id: str, token_ids: Sequence[int], start: int, end: int, *, salt: str = ""
    ) -> None:
        """Tell that the step being planned computes the tokens ``start`` to ``end`` of a request."""
        if self._has_names:
            num_full = end // self.block_size
            names = self._extended(request_id, token_ids, num_full, salt)
            self._announced.update(names[start // self.block_size : num_full])

    def is_awaited(self, request_id: str, token_ids: Sequence[int], *, salt: str = "") -> bool:
        """Whether the next block that a request could share is computed in the step being planned."""
        names = self._sharable(request_id, token_ids, salt)
        num_found = len(self._found(request_id, token_ids, salt))
        return num_found < len(names) and names[num_found] in self._announced

    def num_found(self, request_id: str, token_ids: Sequence[int], *, salt: str = "") -> int:
        """Return how many tokens of a request that owns nothing are in the prefix cache now."""
        return len(self._found(request_id, token_ids, salt)) * self.block_size

    def commit(
        self, request_id: str, token_ids: Sequence[int], start: int, end: int, *, salt: str = ""
    ) -> None:
        """Note that the tokens ``start`` to ``end`` of a request are in the KV cache."""
        first, last = start // self.block_size, end // self.block_size
        if self._has_names and first < last:
            table, names = self._tables[request_id], self._extended(request_id, token_ids, last, salt)
            for index in range(first, last):
                self._pool.name(table[index], names[index])

    def free(self, request_id: str, *, keep_content: bool = True) -> None:
        """Let go of all blocks of a request; one that owns nothing is fine.

        Args:
            request_id: whose blocks.
            keep_content: whether later requests may find what is in them.
        """
        table = self._tables.pop(request_id, [])
        self._names.pop(request_id, None)
        if not keep_content:
            for block in table:
                self._pool.forget(block)
        self._pool.give_back(reversed(table))

    def check_integrity(self) -> None:
        """Check that every block has as many users as tables hold it, and is shared only for equal tokens.

        Raises:
            ValueError: a block is leaked or wrongly shared.
        """
        self._pool.check_integrity()
        users = [0] * self.num_blocks
        content: dict[int, tuple[int, bytes | None]] = {}
        for request_id, table in self._tables.items():
            names = self._names.get(request_id, [])
            for index, block in enumerate(table):
                users[block] += 1
                mine = (index, names[index] if index < len(names) else None)
                if users[block] > 1 and (mine[1] is None or content[block] != mine):
                    raise ValueError(f"block {block} is in two tables for different tokens: {self._tables}")
                content[block] = mine
        if users != [self._pool.num_users(block) for block in range(self.num_blocks)]:
            raise ValueError(f"blocks have other users than the tables say: {self._tables}")

    def _found(self, request_id: str, token_ids: Sequence[int], salt: str) -> list[int]:
        """Return the blocks that a request can begin with."""
        blocks = []
        for name in self._sharable(request_id, token_ids, salt):
            block = self._pool.find(name)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def _sharable(self, request_id: str, token_ids: Sequence[int], salt: str) -> list[bytes]:
        """Return the names of all full blocks before the last token."""
        if not self._has_names:
            return []
        num_sharable = (len(token_ids) - 1) // self.block_size
        return self._extended(request_id, token_ids, num_sharable, salt)[:num_sharable]

    def _extended(self, request_id: str, token_ids: Sequence[int], num_blocks: int, salt: str) -> list[bytes]:
        names = self._names.setdefault(request_id, [])
        extend_names(names, token_ids, num_blocks, self.block_size, salt)
        return names
