"""A model for tests of the engine that wants to say given tokens, whatever is chosen in their place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ernie_backend.request.step_plan import SchedulePlan
from ernie_kernels.sampling import HeadOutput, TokenChoices, head_output


class ScriptedRunner:
    """Runs the plans of one request: the logit of each scripted token is 1 in its place, all others are 0.

    Args:
        script: token ids of the answer; the last is repeated.
        num_prompt_tokens: of the request.
        vocab_size: width of the logits.
    """

    def __init__(self, script: Sequence[int], num_prompt_tokens: int, vocab_size: int) -> None:
        self._script = script
        self._num_prompt_tokens = num_prompt_tokens
        self._vocab_size = vocab_size

    def run(self, plan: SchedulePlan, choices: TokenChoices | None = None) -> HeadOutput:
        """Return logits and tokens."""
        places = [
            chunk.start + len(chunk.token_ids) - chunk.num_logit_rows + row + 1 - self._num_prompt_tokens
            for chunk in plan.chunks
            for row in range(chunk.num_logit_rows)
        ]
        logits = np.zeros((len(places), self._vocab_size), np.float32)
        for row, place in enumerate(places):
            logits[row, self._script[min(max(place, 0), len(self._script) - 1)]] = 1
        return head_output(logits, choices)
