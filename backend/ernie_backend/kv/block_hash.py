"""Names for the content of full KV cache blocks.

    name(0) = hash(hash of the salt   + tokens of block 0)     without a salt: hash(tokens of block 0)
    name(i) = hash(name(i - 1)        + tokens of block i)

The keys and values of a block depend on its tokens and on all tokens before them, and so does its name. The
hash is BLAKE2b with 256 bits: no two different prefixes with one name can be found, not even by somebody who
chooses prompts to that end, so equal names mean equal content and tokens need not be compared. A hash of
64 bits, or Python's own, would give one user's context to another sooner or later. Whatever else shapes keys
and values one day (the pixels behind image tokens) must go into the hash of its block.

Requests with different salts share nothing, so that neither the time that a request takes nor its count of
cached tokens tells one client of another's prompts. The salt is hashed apart from tokens (``person``), so no
choice of it gives a name that tokens have.

This module must not know which block has which name.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

NAME_BYTES = 32


def extend_names(
    names: list[bytes], token_ids: Sequence[int], num_blocks: int, block_size: int, salt: str = ""
) -> None:
    """Append to the names of a request's first blocks those up to block ``num_blocks``.

    Args:
        names: of the first blocks of ``token_ids``.
        token_ids: from position 0 on; at least ``num_blocks`` full blocks.
        num_blocks: how many names there are afterwards; fewer than there are changes nothing.
        block_size: tokens of a block.
        salt: shared by the requests that may share blocks.
    """
    for begin in range(len(names) * block_size, num_blocks * block_size, block_size):
        block = blake2b(names[-1] if names else _salt_hash(salt), digest_size=NAME_BYTES)
        block.update(array("i", token_ids[begin : begin + block_size]))
        names.append(block.digest())


def _salt_hash(salt: str) -> bytes:
    return blake2b(salt.encode(), digest_size=NAME_BYTES, person=b"salt").digest() if salt else b""
