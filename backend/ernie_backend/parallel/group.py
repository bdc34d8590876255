"""The group as rank 0 sees it: what the ranks agree on, the steps they receive, and the group's end.

The loss of one rank ends the group: without its part there are no sums. A rank is lost if it dies, fails, is
silent or hangs. It sends heartbeats from a thread of its own, so silence means that its process is dead,
stopped or out of reach; what the heartbeats say shows which rank hangs (``liveness.py``). Rank 0 is judged like
the others.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ernie_backend.errors import StartError
from ernie_backend.parallel.liveness import HeartbeatSource, RankLiveness, find_hanging
from ernie_backend.parallel.messages import (
    Allocate,
    BarrierRelease,
    DropMedia,
    EncodePiece,
    StartEncoding,
    Step,
)
from ernie_backend.parallel.rank_channel import RankChannel
from ernie_backend.request.media import MediaItem
from ernie_backend.request.step_plan import SchedulePlan
from ernie_backend.runner.encoder import Encoder, media_rows_of
from ernie_backend.runner.inputs import build_batch
from ernie_backend.runner.model_runner import ModelRunner
from ernie_kernels.sampling import HeadOutput, TokenChoices

logger = logging.getLogger(__name__)

_TICK_S = 0.25
_SUSPENDED_S = 2.0
_ROOT_CAUSE_S = 12.0  # longer than it takes to find which rank hangs when a collective has failed


@dataclass(frozen=True)
class Timeouts:
    """How long a rank may be silent, and how long it may make no progress although it must.

    Attributes:
        loading_s: until all ranks have loaded: a thread can wait long for a disk.
        serving_s: afterwards.
    """

    loading_s: float = 120.0
    serving_s: float = 10.0


class GroupObserver:
    """Receives the group's progress and failure; this one ends the process at a failure."""

    def on_progress(self) -> None:
        """Take note that a rank has made progress while it loads; called on any thread."""

    def on_failure(self, cause: str, _: int | None, /) -> None:
        """End this process, because a rank has ended or hangs; called once, on any thread.

        Args:
            cause: in words.
            _: the signal that ended the rank, or None.
        """
        logger.error("the group of ranks ends: %s", cause)
        logging.shutdown()
        os._exit(1)


class RankGroup:
    """The other ranks, watched from a thread until one of them, or rank 0, is lost.

    Args:
        channels: to the other ranks, in rank order.
        observer: receives their progress and failure.
        heartbeats: of rank 0.
        timeouts: for silence and missing progress.
    """

    def __init__(
        self,
        channels: Sequence[RankChannel],
        observer: GroupObserver,
        heartbeats: HeartbeatSource,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._channels = channels
        self._observer = observer
        self._heartbeats = heartbeats
        self._timeouts = timeouts or Timeouts()
        self._is_loading = True
        self._own = RankLiveness("rank 0")
        self._is_over = threading.Event()  # a rank is lost, or ``kill`` was called
        self._is_reported = threading.Event()  # the observer has received the cause, which can take longer
        self._lock = threading.Lock()
        for channel in channels:
            channel.listen(self._fail, self._progress)
        threading.Thread(target=self._watch, name="rank-watch", daemon=True).start()

    def barrier(self) -> None:
        """Wait until all ranks are about to join Paddle's group, and release them."""
        while not all(channel.has_arrived for channel in self._channels):
            self._wait_a_tick()
        for channel in self._channels:
            channel.send(BarrierRelease())

    def least_blocks(self, own: int) -> int:
        """Wait until all ranks have loaded; return the KV cache blocks that every rank has memory for."""
        self._own.has_loaded = True
        while any(channel.loaded is None for channel in self._channels):
            self._wait_a_tick()
        return min(own, *(channel.loaded.num_blocks for channel in self._channels if channel.loaded))

    def allocate(self, num_blocks: int) -> None:
        """Have the ranks allocate their KV cache; steps may follow."""
        for channel in self._channels:
            channel.send(Allocate(num_blocks))
        self._is_loading = False

    def send(self, message: Step | StartEncoding | EncodePiece | DropMedia) -> None:
        """Have the ranks do a piece of work."""
        for channel in self._channels:
            channel.send(message)

    @contextmanager
    def root_cause_first(self) -> Iterator[None]:
        """Delay an error inside until the lost rank that caused it is reported.

        Otherwise this process would end with its own error, such as that of a failed sum, before the cause is
        sent. A clear error of rank 0 itself is not delayed.
        """
        try:
            yield
        except Exception as error:
            if not isinstance(error, StartError) or self._heartbeats.collectives.has_failed:
                self._is_reported.wait(_ROOT_CAUSE_S)
            raise

    def kill(self) -> None:
        """End all other ranks."""
        self._is_over.set()
        for channel in self._channels:
            channel.kill()

    def _wait_a_tick(self) -> None:
        """Let some time pass; raise StartError if the group is over."""
        if self._is_over.wait(_TICK_S):
            self._is_reported.wait(_ROOT_CAUSE_S)
            raise StartError("a rank was lost while it loaded; the log says which")

    def _progress(self) -> None:
        if self._is_loading:
            self._observer.on_progress()

    def _fail(self, cause: str, exit_signal: int | None = None) -> None:
        with self._lock:
            if self._is_over.is_set():  # the first cause counts: that other ranks end follows from it
                return
            self.kill()
        self._observer.on_failure(cause, exit_signal)
        self._is_reported.set()

    def _watch(self) -> None:
        looked_at = time.monotonic()
        while not self._is_over.wait(_TICK_S):
            now = time.monotonic()
            if now - looked_at > _SUSPENDED_S:
                # This process itself was suspended: messages of that time are not read yet.
                for rank in (self._own, *(channel.liveness for channel in self._channels)):
                    rank.heard_at = rank.progressed_at = now
            looked_at = now
            self._judge(now)

    def _judge(self, now: float) -> None:
        timeout_s = self._timeouts.loading_s if self._is_loading else self._timeouts.serving_s
        others = [channel.liveness for channel in self._channels]
        for rank in others:
            if now - rank.heard_at > timeout_s:
                silence = f"{rank.name} has been silent for {timeout_s:g} s"
                self._fail(f"{silence}: it hangs, was stopped, or is out of reach")
        self._own.update(self._heartbeats.read())
        hanging = find_hanging([self._own, *others], now, timeout_s, is_loading=self._is_loading)
        if hanging is not None:
            when = "while it loads" if self._is_loading else "in a step"
            self._fail(f"{hanging.name} hangs {when}: its main thread has not moved for {timeout_s:g} s")


class DistributedRunner:
    """``engine.Runner`` over several ranks: each computes its part of every step."""

    def __init__(self, runner: ModelRunner, group: RankGroup) -> None:
        self.encoder = None if runner.encoder is None else DistributedEncoder(runner.encoder, group)
        self._runner = runner
        self._group = group

    def run(self, plan: SchedulePlan, choices: TokenChoices | None = None) -> HeadOutput:
        """Compute a plan's tokens; see ``ModelRunner.run``."""
        batch, media = build_batch(plan, choices), media_rows_of(plan)
        self._group.send(Step(batch, media))
        with self._group.root_cause_first():  # a sum fails when another rank has died
            return self._runner.compute(batch, media)


class DistributedEncoder:
    """``engine.encoding.MediaEncoder`` over several ranks: each encodes all media, as far as this one does."""

    def __init__(self, encoder: Encoder, group: RankGroup) -> None:
        self._encoder = encoder
        self._group = group

    def start(self, item: MediaItem) -> None:
        """Begin with a medium."""
        self._group.send(StartEncoding(item))
        self._encoder.start(item)

    def advance(self) -> bool:
        """Do one piece of the work; return whether that was the last one."""
        self._group.send(EncodePiece())
        return self._encoder.advance()

    def drop(self, digests: Iterable[bytes]) -> None:
        """Forget embeddings, and the work on those that are not finished."""
        dropped = tuple(digests)
        self._group.send(DropMedia(dropped))
        self._encoder.drop(dropped)
