"""What a request changes in its logits before a token is chosen, and the order of it.

1. ``logit_bias`` is added;
2. penalties (``penalties``);
3. tokens that may not come: bad words, and before ``min_tokens`` all that would end the answer: -infinity.

vLLM and FastDeploy begin with the third, which gives the same. Temperature and the filters follow
(``ernie_kernels.choice``). A bad word of several tokens is held off at its last: it may not come where the
tokens before it are those that the answer ends with. This module must not know requests or text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ernie_backend.runner.penalties import Penalties, PenaltyStrengths


@dataclass(frozen=True)
class EditRules:
    """What a request asks for.

    Attributes:
        bad_words: token sequences that may not come.
        ending_ids: tokens that may not come before ``min_tokens``.
        min_tokens: tokens of the answer.
        logit_bias: token id to what is added to its logit.
        penalties: strengths.
    """

    bad_words: tuple[tuple[int, ...], ...] = ()
    ending_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    penalties: PenaltyStrengths = field(default_factory=PenaltyStrengths)


class LogitEdits:
    """The rules of one request and what they need to know of its answer.

    Args:
        rules: what the request asks for.
        prompt_ids: tokens of the prompt.
        vocab_size: tokens from there on are never chosen, rules for them change nothing.
    """

    def __init__(self, rules: EditRules, prompt_ids: Iterable[int], vocab_size: int) -> None:
        bias = {token_id: value for token_id, value in rules.logit_bias.items() if token_id < vocab_size}
        self._banned = _ids((word[0] for word in rules.bad_words if len(word) == 1), vocab_size)
        self._phrases = tuple(word for word in rules.bad_words if len(word) > 1 and word[-1] < vocab_size)
        self._ending = _ids(rules.ending_ids, vocab_size) if rules.min_tokens else _ids((), vocab_size)
        self._min_tokens = rules.min_tokens
        self._biased = np.fromiter(bias, np.int64, len(bias))
        self._bias = np.fromiter(bias.values(), np.float32, len(bias))
        self._penalties = (
            None if rules.penalties.are_neutral else Penalties(rules.penalties, prompt_ids, vocab_size)
        )
        self._recent = max((len(word) - 1 for word in self._phrases), default=0)
        self._answer_end: tuple[int, ...] = ()
        self._num_generated = 0

    @property
    def are_empty(self) -> bool:
        """Whether they never change anything."""
        arrays = (self._banned, self._ending, self._biased)
        return self._penalties is None and not self._phrases and not any(map(len, arrays))

    @property
    def num_excluded(self) -> int:
        """Tokens that may not be the first of the answer."""
        return len(np.union1d(self._banned, self._ending))

    def add(self, token_id: int) -> None:
        """Take note of the next token of the answer."""
        self._num_generated += 1
        if self._recent:
            self._answer_end = (*self._answer_end, token_id)[-self._recent :]
        if self._penalties is not None:
            self._penalties.add(token_id)

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Change the logits ``[V]`` of the next token in place."""
        logits[self._biased] += self._bias
        if self._penalties is not None:
            self._penalties.apply(logits)
        logits[self._banned] = -np.inf
        for *beginning, last in self._phrases:
            if self._answer_end[-len(beginning) :] == tuple(beginning):
                logits[last] = -np.inf
        if self._num_generated < self._min_tokens:
            logits[self._ending] = -np.inf


def _ids(token_ids: Iterable[int], vocab_size: int) -> NDArray[np.int64]:
    return np.array(sorted({each for each in token_ids if each < vocab_size}), np.int64)
