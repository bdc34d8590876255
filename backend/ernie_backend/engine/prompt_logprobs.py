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
from ernie_kernels.sampling import HeadOutput, TokenChoices

Logits = NDArray[np.float32]


def score_prompts(
    plan: SchedulePlan,
    computed: HeadOutput,
    choices: TokenChoices | None,
    requests: Mapping[str, RequestState],
    sampler: Sampler,
) -> Logits:
    """Score the prompts of a step; return the logits that are sampled on the host.

    Args:
        plan: of the step.
        computed: of its logit rows, ``num_logit_rows`` of each chunk.
        choices: for which of them the backend has chosen: of no chunk that needs all its logits.
        requests: those in the engine, by id; they receive their log probabilities.
        sampler: ranks tokens.
    """
    logits = computed.logits
    if not any(chunk.needs_all_logits for chunk in plan.chunks):
        return logits
    ends = np.cumsum([chunk.num_logit_rows for chunk in plan.chunks])
    is_here = np.ones(ends[-1], bool)
    if choices is not None:
        is_here[choices.places] = False
    rows = np.cumsum(is_here) - 1  # of ``logits``, by place among the logit rows of the step
    for chunk, end in zip(plan.chunks, ends, strict=True):
        if chunk.needs_all_logits:
            of_chunk = logits[rows[end - chunk.num_logit_rows : end]]
            _score(chunk, of_chunk, requests[chunk.request_id], sampler)
    sampled = plan.sampled_places
    result: Logits = logits[rows[sampled[is_here[sampled]]]]
    return result


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
