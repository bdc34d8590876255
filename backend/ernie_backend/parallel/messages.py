"""What rank 0 and the other ranks say to each other, as frozen dataclasses, and their form in a frame.

    rank -> rank 0   Hello (from other machines), then Beat now and then, Here, Loaded or Failed
    rank 0 -> rank   Challenge, Welcome or Refused (to other machines), Join, AllHere, Allocate, then Step for
                     every step

The end of the socket is the end of the rank. Tensors do not go this way. This module must not know how a
message is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Batch
from ernie_wire.codec import Buffers, Codec, Form


@dataclass(frozen=True)
class Challenge:
    """Say who you are; ``number`` is a random one, see ``handshake``."""

    number: str


@dataclass(frozen=True)
class Hello:
    """A rank of another machine is there.

    Attributes:
        size: ranks of the group that it was started for.
        hosts: machines of that group.
        host: index of its machine in the list of addresses.
        index: its place among the ranks of that machine.
        proof: that it knows the group's secret, see ``handshake``.
    """

    size: int
    hosts: int
    host: int
    index: int
    proof: str


@dataclass(frozen=True)
class Welcome:
    """The rank is one of the group; a ``Join`` follows when all have come."""


@dataclass(frozen=True)
class Refused:
    """The rank is none of the group and cannot become one; ``reason`` ends "rank 0 refuses this rank: "."""

    reason: str


@dataclass(frozen=True)
class Join:
    """Load your part.

    Attributes:
        rank: which one.
        master: address and port of Paddle's store.
        parameters: the engine's parameters; what belongs to a machine, the rank's own come first.
        config_digest: hash of rank 0's config.json, which must be the rank's too.
        kernels: what rank 0 computes with, which should be what the rank does.
    """

    rank: int
    master: str
    parameters: dict[str, str]
    config_digest: str
    kernels: str


@dataclass(frozen=True)
class Here:
    """The rank is about to join Paddle's group, and waits for ``AllHere``."""


@dataclass(frozen=True)
class AllHere:
    """So are all ranks."""


@dataclass(frozen=True)
class Beat:
    """The rank lives.

    Attributes:
        progress: figures of its main thread that grow while it works.
        meetings: their count, see ``ernie_kernels.communicator.CollectiveCounter``.
        is_held: its main thread is stopped or traced.
    """

    progress: tuple[int, ...]
    meetings: int
    is_held: bool = False


@dataclass(frozen=True)
class Loaded:
    """The part is loaded, and there is memory for ``num_blocks`` blocks of KV cache."""

    num_blocks: int


@dataclass(frozen=True)
class Failed:
    """The rank ends; ``error`` is one clear sentence."""

    error: str


@dataclass(frozen=True)
class Allocate:
    """Allocate ``num_blocks`` blocks of KV cache, and follow the steps."""

    num_blocks: int


@dataclass(frozen=True)
class Step:
    """Compute a batch."""

    batch: Batch


RankMessage = (
    Challenge | Hello | Welcome | Refused | Join | Here | AllHere | Beat | Loaded | Failed | Allocate | Step
)


def _encode_array(array: NDArray[np.int32], buffers: Buffers) -> list[int]:
    buffers.append(array.tobytes())
    return [len(buffers) - 1, *array.shape]


def _decode_array(place: list[int], buffers: Buffers) -> NDArray[np.int32]:
    number, *shape = place
    return np.frombuffer(buffers[number], np.int32).reshape(shape)


CODEC: Codec[RankMessage] = Codec(
    *get_args(RankMessage), forms={NDArray[np.int32]: Form(frozenset(), _encode_array, _decode_array)}
)
