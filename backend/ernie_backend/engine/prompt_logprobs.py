"""Log probabilities of prompts (``prompt_logprobs``), taken from a step's logits.

A chunk that needs all its logits has a row for each of its tokens, which scores the token after it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ernie_backend.engine.request_state import RequestState
from ernie_backend.request.step_plan import ScheduledChunk, SchedulePlan
from ernie_backend.runner.sampler import Sampler

Logits = NDArray[np.float32]


def score_prompts(
    plan: SchedulePlan, logits: Logits, requests: Mapping[str, RequestState], sampler: Sampler
) -> Logits:
    """Score the prompts of a step; return the logits that are sampled, ``num_sampled`` rows of each chunk.

    Args:
        plan: of the step.
        logits: ``[R, V]``: ``num_logit_rows`` of each chunk.
        requests: those in the engine, by id; they receive their log probabilities.
        sampler: ranks tokens.
    """
    if not any(chunk.needs_all_logits for chunk in plan.chunks):
        return logits
    ends = np.cumsum([chunk.num_logit_rows for chunk in plan.chunks])
    for chunk, end in zip(plan.chunks, ends, strict=True):
        if chunk.needs_all_logits:
            _score(chunk, logits[end - chunk.num_logit_rows : end], requests[chunk.request_id], sampler)
    pairs = zip(plan.chunks, ends, strict=True)
    sampled: Logits = logits[np.concatenate([np.arange(end - chunk.num_sampled, end) for chunk, end in pairs])]
    return sampled


def _score(chunk: ScheduledChunk, logits: Logits, request: RequestState, sampler: Sampler) -> None:
    """Score the tokens that have no score yet: after a preemption the beginning is computed again."""
    sequence = request.sequence
    begin = sequence.num_scored_tokens
    next_ids = sequence.prompt_ids[begin : chunk.start + len(chunk.token_ids) + 1]
    first = begin - 1 - chunk.start
    num_top = sequence.sampling.prompt_logprobs
    if next_ids and num_top is not None:
        rows = logits[first : first + len(next_ids)]
        request.add_prompt_logprobs(sampler.score_prompt(rows, next_ids, num_top))
