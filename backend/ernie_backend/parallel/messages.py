"""What rank 0 and the other ranks say to each other, as frozen dataclasses, and their form in a frame.

    rank -> rank 0   Hello (from other machines), then Beat now and then, Here, Loaded or Failed
    rank 0 -> rank   Challenge, Welcome or Refused (to other machines), Join, AllHere, Allocate, then Step for
                     every step

The end of the socket is the end of the rank. Tensors do not go this way. This module must not know how a
message is sent.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from ernie_kernels.api import Batch


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
        meetings: their count, see ``ernie_kernels.ranks.Meetings``.
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
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (Challenge, Hello, Welcome, Refused, Join, Here, AllHere, Beat, Loaded, Failed, Allocate, Step)
}


def to_frame(message: RankMessage) -> tuple[dict[str, Any], list[bytes]]:
    """Return a message as a frame's header and buffers; the arrays of a batch travel raw."""
    kind = type(message).__name__
    if not isinstance(message, Step):
        return {"kind": kind, **asdict(message)}, []
    arrays = [getattr(message.batch, field.name) for field in fields(Batch)]
    return {"kind": kind, "shapes": [array.shape for array in arrays]}, [array.tobytes() for array in arrays]


def from_frame(header: dict[str, Any], buffers: list[bytes]) -> RankMessage:
    """Return the message of a frame made by ``to_frame``.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    values = dict(header)
    kind = _KINDS[values.pop("kind")]
    if kind is Step:
        arrays = [
            np.frombuffer(buffer, np.int32).reshape(shape)
            for buffer, shape in zip(buffers, values["shapes"], strict=True)
        ]
        return Step(Batch(*arrays))
    if kind is Beat:
        return Beat(tuple(values["progress"]), values["meetings"], values["is_held"])
    message: RankMessage = kind(**values)
    return message
