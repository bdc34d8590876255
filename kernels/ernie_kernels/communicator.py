"""Ranks that share one model: what an op needs of the others.

Each rank holds a part of every large matrix and works through the same steps; ``Ops.all_reduce`` adds up what
each has computed, ``Ops.lm_head`` lays the ranks' logits side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, Protocol, TypeVar

A = TypeVar("A")
"""An array of the backend, float32."""


class Meetings:
    """Counts what this rank does together with the others, as a context manager around each.

    All ranks meet equally often, so the others wait for the one with the lowest count.

    Attributes:
        count: meetings begun and meetings ended, added up: odd inside one. Any thread may read it.
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
class Rendezvous:
    """How the ranks of a group find each other.

    Attributes:
        rank: this one.
        size: how many there are; at least 2.
        master: ``address:port`` where rank 0 serves Paddle's store; the port is free until then.
        address: this rank's own address.
        card: index of this rank's XPU among those visible on its machine.
        meetings: is kept up to date by this rank's ``Ranks``.
        come: called when this rank is about to join; returns when all are. Paddle's own wait holds Python's
            lock, so that no thread could see who does not come.
    """

    rank: int
    size: int
    master: str
    address: str
    card: int = 0
    meetings: Meetings = field(default_factory=Meetings)
    come: Callable[[], None] = lambda: None


class Ranks(Protocol[A]):
    """This rank and its way to the others; all of them make the same calls in the same order.

    Attributes:
        rank: 0 to ``size`` - 1.
        size: how many there are.
    """

    rank: int
    size: int

    def sum(self, x: A) -> A:
        """Return the sum over the ranks of their ``[T, H]``; ``x`` may be spent."""
        ...

    def join(self, x: A) -> A:
        """Return the ranks' arrays ``[R, N]`` side by side: ``[R, size * N]``."""
        ...


class Alone(Generic[A]):
    """The only rank."""

    rank = 0
    size = 1

    def sum(self, x: A) -> A:
        """Return ``x``."""
        return x

    def join(self, x: A) -> A:
        """Return ``x``."""
        return x
