"""The engine: submit, cancel, step.

    step():  expire -> encode media -> schedule -> run -> sample what the backend has not -> outputs

One thread calls it. A request's fault ends that request with an error output and no other; a fault of the model
ends the process, which the stub starts again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from itertools import count
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ernie_backend.engine.encoding import Encoding, MediaEncoder
from ernie_backend.engine.prompt_logprobs import score_prompts
from ernie_backend.engine.request_state import RequestState
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.request.step_plan import SchedulePlan
from ernie_backend.runner.sampler import SampledToken, Sampler
from ernie_backend.runner.sampling_rows import SamplingRow
from ernie_backend.scheduler.scheduler import Scheduler
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_kernels.sampling import NO_TOKEN, HeadOutput, TokenChoices
from ernie_wire.errors import ErnieError, InternalError, InvalidValue, RequestTimeout
from ernie_wire.messages import Heartbeat, Output

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """What computes a plan: ``ModelRunner``."""

    def run(self, plan: SchedulePlan, choices: TokenChoices | None = None) -> HeadOutput:
        """Return the logits, or the tokens, of ``num_logit_rows`` of each chunk, in the plan's order."""
        ...


class Engine:
    """Requests in the batch and in the queue, and the steps that serve them."""

    def __init__(
        self,
        runner: Runner,
        blocks: BlockManager,
        limits: SchedulerLimits,
        sampler: Sampler,
        clock: Callable[[], float] = time.monotonic,
        encoder: MediaEncoder | None = None,
    ) -> None:
        """Begin with no request; without an ``encoder`` there are only requests of text."""
        self._runner = runner
        self._clock = clock
        self._blocks = blocks
        self._limits = limits
        self._scheduler = Scheduler(limits, blocks, clock)
        self._encoding = None if encoder is None else Encoding(encoder, self._scheduler, clock)
        self._step_s = 0.0  # how long the last step computed
        self._sampler = sampler
        self._requests: dict[str, RequestState] = {}
        self._arrivals = count()
        self._steps = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return bool(self._requests)

    @property
    def heartbeat(self) -> Heartbeat:
        """The engine's figures now."""
        return Heartbeat(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            free_blocks=self._blocks.num_free,
            total_blocks=self._blocks.num_blocks,
            steps=self._steps,
            preemptions=self._scheduler.num_preemptions,
            prefix_cache_queries=self._blocks.num_queried_tokens,
            prefix_cache_hits=self._blocks.num_hit_tokens,
        )

    def submit(self, request: RequestState) -> Output | None:
        """Accept a request; return its only output if it is refused, or if there is nothing to compute."""
        try:
            if request.request_id in self._requests:
                raise InvalidValue(f"request_id {request.request_id!r} is in flight already", "request_id")
            sampling = request.sequence.sampling
            if sampling.max_tokens == 0 and sampling.prompt_logprobs is None:
                return request.finish_without_tokens()
            request.sequence.arrival = next(self._arrivals)
            self._scheduler.add(request.sequence)
        except ErnieError as error:
            return Output(request.request_id, error=error.to_line())
        self._requests[request.request_id] = request
        return None

    def cancel(self, request_id: str) -> bool:
        """Forget a request, its KV blocks are free at once; False if it is unknown."""
        return self._forget(request_id)

    def step(self) -> tuple[Output, ...]:
        """Compute one step; return the outputs of its requests."""
        ended = self._expire() + self._encode()
        self._draft()
        plan = self._scheduler.schedule()
        if not plan.chunks:
            self._step_s = 0.0
            return ended
        rows = self._rows(plan)
        choices = self._sampler.choices(rows, plan.sampled_places)
        begin = self._clock()
        with self._sampler.filling_masks(rows):
            computed = self._runner.run(plan, choices)
        self._step_s = self._clock() - begin
        logits = score_prompts(plan, computed, choices, self._requests, self._sampler)
        outputs = self._advance(plan, self._tokens(rows, logits, computed.tokens))
        self._scheduler.complete(plan)
        self._steps += 1
        for output in outputs:
            if output.is_last:
                # After an error the KV cache may hold NaN, which no later request must find.
                self._forget(output.request_id, keep_content=output.error is None)
        return ended + outputs

    def check_integrity(self) -> None:
        """Check the scheduler's and the KV cache's invariants; raise ValueError if one does not hold."""
        self._scheduler.check_integrity()

    def _draft(self) -> None:
        """Guess tokens of the requests that decode, if they are few: a step of many has no time for guesses."""
        config = self._limits.speculative_config
        if config is None:
            return
        decoding = [each for each in self._requests.values() if each.sequence.is_decoding]
        if len(decoding) <= config.disable_by_batch_size:
            for request in decoding:
                request.draft()

    def _encode(self) -> tuple[Output, ...]:
        """Let media be encoded for a while; end the requests that need one which cannot be."""
        failed = None if self._encoding is None else self._encoding.work(self._step_s)
        if failed is None:
            return ()
        error = InternalError(
            f"encoding an input ({failed.kind}) of this request failed; the engine's log says why"
        )
        ending = [sequence.request_id for sequence in self._scheduler.needing(failed.digest)]
        for request_id in ending:
            self._forget(request_id)
        return tuple(Output(request_id, error=error.to_line()) for request_id in ending)

    def _rows(self, plan: SchedulePlan) -> list[SamplingRow]:
        """Return the sequence, and the drafts before it, of each sampled row of a plan."""
        return [
            SamplingRow(self._requests[chunk.request_id].sequence, chunk.draft_ids[:count])
            for chunk in plan.chunks
            for count in range(chunk.num_sampled)
        ]

    def _tokens(
        self, rows: list[SamplingRow], logits: NDArray[np.float32], chosen: NDArray[np.int64]
    ) -> list[SampledToken]:
        """Return the token of each row: the next of those ``chosen`` by the backend, or sampled here."""
        if len(chosen) == len(rows):
            return [SampledToken(token_id) for token_id in chosen.tolist()]
        of_backend = iter(chosen.tolist())
        of_host = iter(self._sample(logits, [row for row in rows if row.needs_host]))
        return [next(of_host) if row.needs_host else SampledToken(next(of_backend)) for row in rows]

    def _sample(self, logits: NDArray[np.float32], rows: list[SamplingRow]) -> list[SampledToken]:
        """Choose a token for each row; one that makes sampling fail gets ``NO_TOKEN``, alone."""
        if not rows:
            return []
        try:
            return self._sampler.sample(logits, rows)
        except Exception:
            if len(rows) == 1:
                logger.exception("request %s cannot be sampled", rows[0].sequence.request_id)
                return [SampledToken(NO_TOKEN)]
        return [
            token for index, row in enumerate(rows) for token in self._sample(logits[index : index + 1], [row])
        ]

    def _advance(self, plan: SchedulePlan, sampled: list[SampledToken]) -> tuple[Output, ...]:
        """Add each chunk's tokens to its request; return the outputs to send."""
        outputs, begin = list[Output](), 0
        for chunk in plan.chunks:
            if chunk.num_sampled:
                request, tokens = self._requests[chunk.request_id], sampled[begin : begin + chunk.num_sampled]
                begin += chunk.num_sampled
                if chunk.num_sampled > 1:
                    tokens = _accepted(chunk.draft_ids, tokens)
                    request.report_drafts(chunk.num_sampled - 1, len(tokens) - 1)
                output = self._append(request, tokens)
                if output is not None:
                    outputs.append(output)
        return tuple(outputs)

    def _append(self, request: RequestState, tokens: list[SampledToken]) -> Output | None:
        """Add a chunk's tokens to its request; return the output to send, if any."""
        last = tokens[-1]
        has_failed = last.token_id == NO_TOKEN
        try:
            output = request.advance(tokens[:-1] if has_failed else tokens)
        except ErnieError as failure:
            return Output(request.request_id, error=failure.to_line())
        except Exception:
            logger.exception("request %s cannot take its next token", request.request_id)
            error: ErnieError = InternalError("this answer failed while it was made")
            return Output(request.request_id, error=error.to_line())
        if not has_failed or request.finish_reason is not None:
            return output
        if last.error is None:
            logger.error("the logits of request %s are not numbers", request.request_id)
        error = last.error or InternalError("the model computed no valid probabilities for this request")
        return Output(request.request_id, error=error.to_line())

    def _forget(self, request_id: str, *, keep_content: bool = True) -> bool:
        request = self._requests.pop(request_id, None)
        if request is not None:
            self._scheduler.remove(request.sequence, keep_content=keep_content)
            if self._encoding is not None:
                self._encoding.drop_unneeded()
        return request is not None

    def _expire(self) -> tuple[Output, ...]:
        """End the requests that have waited too long."""
        expired = self._scheduler.expired()
        if not expired:
            return ()
        error = RequestTimeout(
            f"the request has waited longer than {self._limits.max_waiting_time} s for its turn "
            "(max_waiting_time); try again later"
        )
        for sequence in expired:
            self._forget(sequence.request_id)
        return tuple(Output(sequence.request_id, error=error.to_line()) for sequence in expired)


def _accepted(draft_ids: tuple[int, ...], tokens: list[SampledToken]) -> list[SampledToken]:
    """Return the tokens up to the first that is not its draft: what follows came after a wrong token."""
    for index, draft_id in enumerate(draft_ids):
        if tokens[index].token_id != draft_id:
            return tokens[: index + 1]
    return tokens
