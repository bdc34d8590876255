"""Messages between rank 0 and the other ranks, and their codec.

    rank -> rank 0   Hello (from another machine), Heartbeat twice a second, BarrierArrival, Loaded or Failed
    rank 0 -> rank   Challenge, Welcome or Refused (to another machine), Join, BarrierRelease, Allocate, and a
                     Step for every step; StartEncoding, EncodePiece and DropMedia between steps

The end of the socket is the end of the rank. Tensors travel over ``ernie_kernels.communicator`` instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ernie_backend.request.media import MediaItem
from ernie_backend.runner.encoder import MediaRows
from ernie_kernels.api import Batch
from ernie_kernels.sampling import ROW, SamplingBatch
from ernie_wire.codec import Buffers, Codec, Form


@dataclass(frozen=True)
class Challenge:
    """Asks a connection to identify itself; ``number`` is random, see ``handshake``."""

    number: str


@dataclass(frozen=True)
class Hello:
    """Identifies a rank of another machine.

    Attributes:
        size: ranks of the group that it was started for.
        hosts: machines of that group.
        host: index of its machine in the list of addresses.
        index: its place among the ranks of that machine.
        proof: shows that it knows the group's secret, see ``handshake``.
    """

    size: int
    hosts: int
    host: int
    index: int
    proof: str


@dataclass(frozen=True)
class Welcome:
    """The rank is accepted; a ``Join`` follows when all ranks are."""


@dataclass(frozen=True)
class Refused:
    """The rank is not one of the group; ``reason`` ends "rank 0 refuses this rank: "."""

    reason: str


@dataclass(frozen=True)
class Join:
    """Tells a rank to load its part of the model.

    Attributes:
        rank: its number.
        master: address and port of Paddle's store.
        parameters: the engine's parameters; the rank's own take precedence where they belong to a machine.
        config_digest: hash of rank 0's config.json, which must equal the rank's.
        kernels: rank 0's kernels, which should be the rank's too.
    """

    rank: int
    master: str
    parameters: dict[str, str]
    config_digest: str
    kernels: str


@dataclass(frozen=True)
class BarrierArrival:
    """The rank is about to join Paddle's group, and waits for ``BarrierRelease``."""


@dataclass(frozen=True)
class BarrierRelease:
    """All ranks are about to join Paddle's group."""


@dataclass(frozen=True)
class Heartbeat:
    """The rank is alive.

    Attributes:
        progress: figures of its main thread that grow while that works, see ``ProcessStat.progress``.
        collectives: see ``CollectiveCounter.count``.
        is_stopped: its main thread is stopped or traced.
    """

    progress: tuple[int, ...]
    collectives: int
    is_stopped: bool = False


@dataclass(frozen=True)
class Loaded:
    """The rank has loaded its part, and has memory for ``num_blocks`` blocks of KV cache."""

    num_blocks: int


@dataclass(frozen=True)
class Failed:
    """The rank ends; ``error`` is one clear sentence."""

    error: str


@dataclass(frozen=True)
class Allocate:
    """Tells a rank to allocate ``num_blocks`` blocks of KV cache; steps follow."""

    num_blocks: int


@dataclass(frozen=True)
class Step:
    """Tells a rank to compute a batch, whose ``media_rows`` have the embeddings ``media``."""

    batch: Batch
    media: tuple[MediaRows, ...] = ()


@dataclass(frozen=True)
class StartEncoding:
    """Tells a rank to begin with the encoding of a medium."""

    item: MediaItem


@dataclass(frozen=True)
class EncodePiece:
    """Tells a rank to do the next piece of it."""


@dataclass(frozen=True)
class DropMedia:
    """Tells a rank to forget the embeddings of media, and the work on those that are not finished."""

    digests: tuple[bytes, ...]


RankMessage = (
    Challenge
    | Hello
    | Welcome
    | Refused
    | Join
    | BarrierArrival
    | BarrierRelease
    | Heartbeat
    | Loaded
    | Failed
    | Allocate
    | Step
    | StartEncoding
    | EncodePiece
    | DropMedia
)


def _encode_array(array: NDArray[Any], buffers: Buffers) -> list[int]:
    buffers.append(array.tobytes())
    return [len(buffers) - 1, *array.shape]


def _array_of(dtype: type[np.generic] | np.dtype[np.void]) -> Form:
    def decode(place: list[int], buffers: Buffers) -> NDArray[Any]:
        number, *shape = place
        return np.frombuffer(buffers[number], dtype).reshape(shape)

    return Form(frozenset(), _encode_array, decode)


CODEC: Codec[RankMessage] = Codec(
    *get_args(RankMessage),
    forms={
        NDArray[np.int32]: _array_of(np.int32),
        NDArray[np.uint8]: _array_of(np.uint8),
        SamplingBatch: _array_of(ROW),
    },
)
