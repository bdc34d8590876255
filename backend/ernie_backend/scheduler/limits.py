"""What the scheduler may not exceed."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_PARTIAL_PREFILLS = 4
"""A long prompt, a shorter one that passes it, and still shorter ones that pass both go on at once. Each holds
KV blocks for all of its prompt, so it is a small number."""


@dataclass(frozen=True)
class SchedulerLimits:
    """Limits of a step and of the queue.

    Attributes:
        max_num_seqs: requests in one step.
        max_num_batched_tokens: tokens in one step.
        max_num_waiting: new requests in the queue; one more is refused.
        max_num_waiting_tokens: prompt tokens of the new requests in the queue; a request that finds others
            there and would exceed it is refused.
        max_waiting_time_s: a new request that has waited longer for its first step fails; None: no limit.
        max_num_partial_prefills: prompts that may be unfinished at once; with 1, none passes another.
        max_long_partial_prefills: of these, long ones.
        long_prefill_token_threshold: a prompt of more tokens is long.
        max_prompt_logit_rows: prompt tokens whose logits one step computes because a request wants them.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_num_waiting: int
    max_num_waiting_tokens: int = 1 << 20
    max_waiting_time_s: float | None = None
    max_num_partial_prefills: int = DEFAULT_PARTIAL_PREFILLS
    max_long_partial_prefills: int = DEFAULT_PARTIAL_PREFILLS
    long_prefill_token_threshold: int = 0
    max_prompt_logit_rows: int = 64
