"""The waiting requests: sorted, bounded, and with an estimate of how fast they leave.

Two kinds wait: new requests, which are counted, bounded and may expire, and preempted ones, which were accepted
long ago and only wait for KV blocks. Both are in one order: priority, then arrival.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator

from ernie_backend.request.sequence import Sequence
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_wire.errors import QueueFull

_DEPARTURES = 32
"""The last departures, from which the rate is estimated."""
LONGEST_RETRY_S = 600


def rank(sequence: Sequence) -> tuple[int, int]:
    """Return what requests are sorted by: the lowest is served first, and preempted last."""
    return sequence.priority, sequence.arrival


class WaitingQueue:
    """Requests that wait for a step, the first to be served first."""

    def __init__(self, limits: SchedulerLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._sequences: list[Sequence] = []
        self._since: dict[str, float] = {}  # when each new request arrived
        self._num_tokens = 0  # of the new ones' prompts
        self._left: deque[float] = deque(maxlen=_DEPARTURES)  # the first arrival, then departures

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        """Return the requests in their order."""
        return iter(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """Put a new request in its place.

        Raises:
            QueueFull: the queue has all it accepts; ``retry_after_s`` says when to try again.
        """
        num_tokens = len(sequence.prompt_ids)
        self._check_room(num_tokens)
        now = self._clock()
        if not self._since:
            self._left.clear()
            self._left.append(now)
        self._since[sequence.request_id] = now
        self._num_tokens += num_tokens
        insort(self._sequences, sequence, key=rank)

    def put_back(self, sequence: Sequence) -> None:
        """Put a preempted request in its place, full or not."""
        insort(self._sequences, sequence, key=rank)

    def remove(self, sequence: Sequence) -> None:
        """Take a request out of the queue."""
        self._sequences.remove(sequence)
        if self._since.pop(sequence.request_id, None) is not None:
            self._num_tokens -= len(sequence.prompt_ids)
            self._left.append(self._clock())

    def expired(self) -> list[Sequence]:
        """Return the new requests that have waited longer than ``max_waiting_time``."""
        if self._limits.max_waiting_time is None or not self._since:
            return []
        latest = self._clock() - self._limits.max_waiting_time
        never = math.inf  # preempted requests
        return [each for each in self._sequences if self._since.get(each.request_id, never) < latest]

    def check_integrity(self) -> None:
        """Check order and counts.

        Raises:
            ValueError: one is wrong.
        """
        ranks = [rank(sequence) for sequence in self._sequences]
        if ranks != sorted(ranks):
            raise ValueError(f"waiting requests are out of order: {ranks}")
        new = [each for each in self._sequences if each.request_id in self._since]
        if len(new) != len(self._since) or sum(len(each.prompt_ids) for each in new) != self._num_tokens:
            raise ValueError(f"the queue miscounts {len(self._since)} requests and {self._num_tokens} tokens")

    def _check_room(self, num_tokens: int) -> None:
        limits, num_new = self._limits, len(self._since)
        if num_new >= limits.max_num_waiting:
            raise self._full(
                f"{num_new} requests are waiting and no more are accepted "
                f"(max_num_waiting {limits.max_num_waiting})"
            )
        if num_new and self._num_tokens + num_tokens > limits.max_num_waiting_tokens:
            raise self._full(
                f"{self._num_tokens} prompt tokens are waiting and {num_tokens} more are not accepted "
                f"(max_num_waiting_tokens {limits.max_num_waiting_tokens})"
            )

    def _full(self, cause: str) -> QueueFull:
        """Return the refusal, with the time until half of the queue will have left at its recent rate.

        Half, so that clients that try again find room before the queue has run empty.
        """
        per_request_s = (self._clock() - self._left[0]) / max(1, len(self._left) - 1)
        seconds = math.ceil(len(self._since) / 2 * per_request_s)
        retry_after_s = min(max(1, seconds), LONGEST_RETRY_S)
        return QueueFull(f"{cause}; retry after {retry_after_s} s", retry_after_s=retry_after_s)
