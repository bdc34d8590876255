"""Hashes of full KV cache blocks, by which the prefix cache finds them.

    hash(0) = H(H(salt)     + tokens of block 0)     without a salt: H(tokens of block 0)
    hash(i) = H(hash(i - 1) + tokens of block i)

The keys and values of a block depend on its tokens and on all tokens before them, and so does its hash. H is
BLAKE2b with 256 bits: two different prefixes with the same hash cannot be found, not even by a client that
chooses prompts for that purpose, so equal hashes mean equal content and tokens need not be compared. A hash of
64 bits, or Python's own, would sooner or later give one user's context to another. Whatever else determines
keys and values in the future (the pixels behind image tokens) must go into the hash of its block.

Requests with different salts share nothing, so neither the latency of a request nor its count of cached tokens
tells one client about another's prompts. The salt is hashed apart from tokens (``person``), so no salt yields a
hash that tokens have.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

HASH_BYTES = 32


def extend_hashes(
    hashes: list[bytes], token_ids: Sequence[int], num_blocks: int, block_size: int, salt: str = ""
) -> None:
    """Append to the hashes of a request's first blocks those up to block ``num_blocks``.

    Args:
        hashes: those of the first blocks of ``token_ids``; extended in place.
        token_ids: from position 0 on; at least ``num_blocks`` full blocks.
        num_blocks: length of ``hashes`` afterwards; a smaller one than before changes nothing.
        block_size: tokens of a block.
        salt: shared by the requests that may share blocks.
    """
    for begin in range(len(hashes) * block_size, num_blocks * block_size, block_size):
        block = blake2b(hashes[-1] if hashes else _salt_hash(salt), digest_size=HASH_BYTES)
        block.update(array("i", token_ids[begin : begin + block_size]))
        hashes.append(block.digest())


def _salt_hash(salt: str) -> bytes:
    return blake2b(salt.encode(), digest_size=HASH_BYTES, person=b"salt").digest() if salt else b""
