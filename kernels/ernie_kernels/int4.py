"""Int4 codes in bytes: two of a row in each, in two's complement, the even one in the low nibble.

A row with an odd number of codes leaves its last high nibble 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pack_int4(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return codes -8..7 ``[N, K]`` two per byte: uint8 ``[N, ceil(K / 2)]``."""
    rows, inputs = codes.shape
    nibbles = np.zeros((rows, inputs + inputs % 2), np.uint8)
    nibbles[:, :inputs] = codes.astype(np.uint8) & 15
    return (nibbles[:, 0::2] | nibbles[:, 1::2] << 4).astype(np.uint8)


def unpack_int4(packed: NDArray[np.uint8], inputs: int) -> NDArray[np.int8]:
    """Return the codes int8 ``[N, inputs]`` of ``pack_int4``'s bytes."""
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)[:, :inputs]
    codes: NDArray[np.int8] = (nibbles ^ 8).astype(np.int8) - np.int8(8)
    return codes
