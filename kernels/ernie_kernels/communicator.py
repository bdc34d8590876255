"""What an op needs of the other ranks that share the model.

Each rank holds a part of every large matrix and works through the same steps: ``Ops.all_reduce`` adds up what
each has computed, ``Ops.lm_head`` concatenates the ranks' logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, Protocol, TypeVar

A = TypeVar("A")
"""An array of the backend, float32."""


class CollectiveCounter:
    """Counts this rank's collectives, as a context manager around each.

    All ranks call the same collectives, so the others wait for the rank with the lowest count.

    Attributes:
        count: collectives begun plus collectives ended: odd inside one. Any thread may read it.
        has_failed: one has ended with an error, as it does if another rank is gone or hangs.
    """

    def __init__(self) -> None:
        self.count = 0
        self.has_failed = False

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.count += 1
        self.has_failed |= error is not None


@dataclass(frozen=True)
class ProcessGroupConfig:
    """How a rank joins the others.

    Attributes:
        rank: of this process.
        size: number of ranks; at least 2.
        master: ``address:port`` where rank 0 serves Paddle's store; the port is free until then.
        address: this rank's own address.
        card: index of this rank's XPU among those visible on its machine.
        collectives: updated by this rank's ``Communicator``.
        barrier: called when this rank is about to join; returns when all ranks are. Paddle's own wait holds the
            interpreter lock, so that no thread of the process could see which rank is missing.
    """

    rank: int
    size: int
    master: str
    address: str
    card: int = 0
    collectives: CollectiveCounter = field(default_factory=CollectiveCounter)
    barrier: Callable[[], None] = lambda: None


class Communicator(Protocol[A]):
    """Collectives of this rank; all ranks make the same calls in the same order.

    Attributes:
        rank: 0 to ``size`` - 1.
        size: number of ranks.
    """

    rank: int
    size: int

    def all_reduce(self, x: A) -> A:
        """Return the sum over the ranks of their ``[T, H]``; may overwrite ``x``."""
        ...

    def all_gather(self, x: A) -> A:
        """Return the ranks' arrays ``[R, N]`` side by side: ``[R, size * N]``."""
        ...


class SingleRank(Generic[A]):
    """The only rank."""

    rank = 0
    size = 1

    def all_reduce(self, x: A) -> A:
        """Return ``x``."""
        return x

    def all_gather(self, x: A) -> A:
        """Return ``x``."""
        return x
