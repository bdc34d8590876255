"""The engine: submit, cancel, step.

    step():  schedule -> run -> sample -> outputs

One thread calls it. A request's fault ends that request with an error output and no other; a fault of the model
ends the process, whose restart is the stub's affair. This module must not know sockets, threads, prompts as
text or how a step is computed.
"""

from __future__ import annotations

import logging
from itertools import count
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ernie_backend.engine.sequence import Sequence
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.runner.sampler import NO_TOKEN, sample
from ernie_backend.scheduler.plan import SchedulePlan
from ernie_backend.scheduler.scheduler import Scheduler, SchedulerLimits
from ernie_wire.errors import ErnieError, InternalError, InvalidValue
from ernie_wire.messages import Heartbeat, Output

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """What computes a plan: ``ModelRunner``."""

    def run(self, plan: SchedulePlan) -> NDArray[np.float32]:
        """Return the logits ``[R, V]`` of the plan's sampled chunks, in its order."""
        ...


class Engine:
    """Requests in the batch and in the queue, and the steps that serve them."""

    def __init__(self, runner: Runner, blocks: BlockManager, limits: SchedulerLimits, vocab_size: int) -> None:
        """Begin with no request; ``vocab_size`` is the tokenizer's, see ``sampler.sample``."""
        self._runner = runner
        self._blocks = blocks
        self._scheduler = Scheduler(limits, blocks)
        self._vocab_size = vocab_size
        self._sequences: dict[str, Sequence] = {}
        self._arrivals = count()
        self._steps = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return bool(self._sequences)

    @property
    def heartbeat(self) -> Heartbeat:
        """The engine's figures now."""
        return Heartbeat(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            free_blocks=self._blocks.num_free,
            total_blocks=self._blocks.num_blocks,
            steps=self._steps,
        )

    def submit(self, sequence: Sequence) -> Output | None:
        """Accept a request; a refusal is returned as its only output."""
        try:
            if sequence.request_id in self._sequences:
                raise InvalidValue(f"request_id {sequence.request_id!r} is in flight already", "request_id")
            sequence.arrival = next(self._arrivals)
            self._scheduler.add(sequence)
        except ErnieError as error:
            return Output(sequence.request_id, error=error.to_line())
        self._sequences[sequence.request_id] = sequence
        return None

    def cancel(self, request_id: str) -> bool:
        """Forget a request, its KV blocks are free at once; False if it is not here."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None:
            self._scheduler.remove(sequence)
        return sequence is not None

    def step(self) -> tuple[Output, ...]:
        """Compute one step; return what it made for each request."""
        plan = self._scheduler.schedule()
        if not plan.chunks:
            return ()
        logits = self._runner.run(plan)
        self._scheduler.complete(plan, self._sequences)
        self._steps += 1
        sampled = [self._sequences[chunk.request_id] for chunk in plan.chunks if chunk.is_sampled]
        tokens = sample(logits, [sequence.sampling_row() for sequence in sampled], self._vocab_size)
        outputs = (self._advance(*pair) for pair in zip(sampled, tokens.tolist(), strict=True))
        return tuple(output for output in outputs if output is not None)

    def check_integrity(self) -> None:
        """Check the scheduler's and the KV cache's invariants; raise ValueError if one does not hold."""
        self._scheduler.check_integrity()

    def _advance(self, sequence: Sequence, token_id: int) -> Output | None:
        """Append a sampled token; return the output if there is something to send."""
        if token_id == NO_TOKEN:
            logger.error("the logits of request %s are not numbers", sequence.request_id)
            self.cancel(sequence.request_id)
            error = InternalError("the model computed no valid probabilities for this request")
            return Output(sequence.request_id, error=error.to_line())
        output = sequence.advance(token_id)
        if sequence.finish_reason is not None:
            self.cancel(sequence.request_id)
        return output
