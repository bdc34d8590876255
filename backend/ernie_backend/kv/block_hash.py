"""Hashes of full KV cache blocks, by which the prefix cache finds them.

    text(0) = H(H(salt)     + tokens of block 0)     without a salt: H(tokens of block 0)
    text(i) = H(hash(i - 1) + tokens of block i)
    hash(i) = text(i), or M(text(i) + tokens of vision and media in block i) if there are any

The keys and values of a block depend on its tokens and on all tokens before them, and so does its hash. H is
BLAKE2b with 256 bits: two different prefixes with the same hash cannot be found, not even by a client that
chooses prompts for that purpose, so equal hashes mean equal content and tokens need not be compared. A hash of
64 bits, or Python's own, would sooner or later give one user's context to another. Whatever else determines
keys and values in the future must go into the hash of its block.

The tokens of all pictures are the same placeholder, so the block of such tokens has the digest of the picture
in its hash, and which rows of its embeddings the tokens have. So does the block of a token that goes to the
experts of vision: one beside a picture does, and the same token without a picture does not. M is H with a
``person`` of its own: whatever tokens and pixels a client sends, no block of text has the hash of a block of
pictures.

Requests with different salts share nothing, so neither the latency of a request nor its count of cached tokens
tells one client about another's prompts. The salt is hashed apart from tokens (``person``), so no salt yields a
hash that tokens have.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b

from ernie_backend.request.media import cut_spans
from ernie_backend.request.sequence import Sequence

HASH_BYTES = 32


def extend_hashes(hashes: list[bytes], sequence: Sequence, num_blocks: int, block_size: int) -> None:
    """Append to the hashes of a request's first blocks those up to block ``num_blocks``.

    Args:
        hashes: those of the first blocks of the request; extended in place.
        sequence: has at least ``num_blocks`` full blocks; requests of one ``cache_salt`` may share blocks.
        num_blocks: length of ``hashes`` afterwards; a smaller one than before changes nothing.
        block_size: tokens of a block.
    """
    for begin in range(len(hashes) * block_size, num_blocks * block_size, block_size):
        block = blake2b(hashes[-1] if hashes else _salt_hash(sequence.cache_salt), digest_size=HASH_BYTES)
        block.update(array("i", sequence.token_ids[begin : begin + block_size]))
        hashes.append(_with_media(block.digest(), sequence, begin, begin + block_size))


def _with_media(text_hash: bytes, sequence: Sequence, begin: int, end: int) -> bytes:
    """Return the hash of a block with its media and its tokens of vision; without any, that of its text."""
    spans = cut_spans(sequence.media, begin, end) if sequence.media else ()
    types = None if sequence.vision_types is None else sequence.vision_types[begin:end]
    if not spans and (types is None or not types.any()):
        return text_hash
    block = blake2b(text_hash, digest_size=HASH_BYTES, person=b"media")
    if types is not None:
        block.update(types.tobytes().ljust(end - begin, b"\0"))  # answers have none
    for span in spans:  # records of one length, since digests have one
        block.update(sequence.media_items[span.index].digest)
        block.update(array("q", (span.start, span.length, span.first_row)))
    return block.digest()


def _salt_hash(salt: str) -> bytes:
    return blake2b(salt.encode(), digest_size=HASH_BYTES, person=b"salt").digest() if salt else b""
