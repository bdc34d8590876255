"""What a request asks of the sampler, checked against the model and filled up with the model's defaults.

This module must not know prompts as text, scheduling or how a token is chosen.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ernie_backend.chat.tokenizer import NullTokenizer, Tokenizer
from ernie_backend.engine.generation_config import GenerationConfig
from ernie_backend.request.sampling import LogitsProcessor, ResolvedSampling
from ernie_backend.runner.logits_processors import BadWords, LogitBias, MinTokens, Penalties
from ernie_backend.settings.groups import LogprobLimits
from ernie_kernels.sampling import SamplingFilters
from ernie_wire.checks import check_token_ids
from ernie_wire.errors import ContextLengthExceeded, InvalidValue
from ernie_wire.sampling import MAX_SEED, SamplingParameters

MAX_PROMPT_VALUES = 1 << 18
"""Values in the ``prompt_logprobs`` of one request: they all go in one message, about 75 bytes each."""


@dataclass(frozen=True)
class SamplingResolver:
    """Resolves the sampling parameters of requests to one model.

    Attributes:
        tokenizer: turns bad words into tokens.
        defaults: of the model.
        vocab_size: token ids that the model knows; those beyond the tokenizer's are never chosen.
        logprob_limits: which log probabilities a request may ask for.
    """

    tokenizer: Tokenizer | NullTokenizer
    defaults: GenerationConfig
    vocab_size: int
    logprob_limits: LogprobLimits

    def resolve(self, asked: SamplingParameters, num_prompt_tokens: int, room: int) -> ResolvedSampling:
        """Return how tokens are chosen and when to stop.

        Args:
            asked: by the request.
            num_prompt_tokens: tokens of the prompt.
            room: tokens that the context leaves for the answer.

        Raises:
            InvalidRequest: a value that this model or server does not allow.
        """
        self._check(asked)
        if asked.min_tokens > room:
            context = num_prompt_tokens + room
            raise ContextLengthExceeded.of(context, num_prompt_tokens, asked.min_tokens, "min_tokens")
        prompt_logprobs = self._num_logprobs("prompt_logprobs", asked.prompt_logprobs)
        _check_prompt_values(prompt_logprobs, num_prompt_tokens)
        defaults = self.defaults
        max_tokens = asked.max_tokens if asked.max_tokens is not None else defaults.max_new_tokens
        return ResolvedSampling(
            filters=SamplingFilters._make(self._value(asked, name) for name in SamplingFilters._fields),
            seed=_resolved_seed(asked.seed),
            max_tokens=min(max(max_tokens, asked.min_tokens), room) if max_tokens is not None else room,
            min_tokens=asked.min_tokens,
            eos_token_ids=frozenset() if asked.ignore_eos else frozenset(defaults.eos_token_ids),
            stop_token_ids=frozenset(asked.stop_token_ids),
            includes_stop=asked.include_stop_str_in_output,
            logprobs=self._num_logprobs("logprobs", asked.logprobs),
            prompt_logprobs=prompt_logprobs,
        )

    def processors(
        self, asked: SamplingParameters, resolved: ResolvedSampling, prompt_ids: Iterable[int]
    ) -> tuple[LogitsProcessor, ...]:
        """Return what changes the logits of the request's tokens; most requests need nothing.

        Rules for tokens that the tokenizer lacks are left out: those are never chosen.

        Raises:
            InvalidRequest: no token is left that could be chosen.
        """
        vocab_size = self.tokenizer.vocab_size
        bias = {token_id: value for token_id, value in asked.logit_bias.items() if token_id < vocab_size}
        words = (*((each,) for each in asked.bad_words_token_ids), *self._bad_words(asked.bad_words))
        words = tuple(word for word in words if word[-1] < vocab_size)
        ending = {each for each in resolved.eos_token_ids | resolved.stop_token_ids if each < vocab_size}
        processors: list[LogitsProcessor] = []
        if bias:
            processors.append(LogitBias(bias))
        processors += self._penalties(asked, prompt_ids)
        if words:
            processors.append(BadWords(words))
        if asked.min_tokens and ending:
            processors.append(MinTokens(asked.min_tokens, ending))
        if processors:
            self._check_choice(processors)
        return tuple(processors)

    def _penalties(self, asked: SamplingParameters, prompt_ids: Iterable[int]) -> Iterator[Penalties]:
        names = ("repetition_penalty", "frequency_penalty", "presence_penalty")
        repetition, frequency, presence = (self._value(asked, name) for name in names)
        if (repetition, frequency, presence) != (1, 0, 0):
            known = (token_id for token_id in prompt_ids if token_id < self.tokenizer.vocab_size)
            yield Penalties(known, repetition=repetition, frequency=frequency, presence=presence)

    def _value(self, asked: SamplingParameters, name: str) -> float:
        """Return one of ``MODEL_DEFAULTS``: what a request asks for, else the model's default."""
        value: float | None = getattr(asked, name)
        default: float = getattr(self.defaults.sampling, name)
        return default if value is None else value

    def _check_choice(self, processors: Iterable[LogitsProcessor]) -> None:
        """Check that a token is left that may begin the answer."""
        logits = np.zeros(self.tokenizer.vocab_size, np.float32)
        for processor in processors:
            processor.apply(logits)
        if np.isneginf(logits).all():
            raise InvalidValue(
                "bad_words, bad_words_token_ids and min_tokens together exclude every token",
                "bad_words_token_ids",
            )

    def _bad_words(self, words: Iterable[str]) -> Iterable[tuple[int, ...]]:
        """Return the tokens of each word without and with a space before it; other spellings are not found."""
        for word in words:
            try:
                spellings = {self.tokenizer.encode(word), self.tokenizer.encode(" " + word)}
            except UnicodeEncodeError:
                message = "bad_words holds half of a surrogate pair, which is not text"
                raise InvalidValue(message, "bad_words") from None
            yield from sorted(spellings)

    def _check(self, asked: SamplingParameters) -> None:
        for name in ("stop_token_ids", "bad_words_token_ids", "logit_bias"):
            check_token_ids(name, getattr(asked, name), self.vocab_size - 1)

    def _num_logprobs(self, name: str, count: int | None) -> int | None:
        """Return how many log probabilities are asked for at one place; -1 asks for those of all tokens."""
        if count is None:
            return None
        if not self.logprob_limits.enable_logprob:  # FastDeploy's text
            raise InvalidValue("Logprobs is disabled, please enable it in startup config.", name)
        limit = self.logprob_limits.max_logprobs
        wanted = self.vocab_size if count == -1 else count
        if 0 <= limit < wanted:
            all_of = f", all {wanted} tokens" if count == -1 else ""
            raise InvalidValue(f"{name} is {count}{all_of}; it must be at most {limit} (max_logprobs)", name)
        return wanted


def _resolved_seed(asked: int | None) -> int:
    """Return a seed that is not negative: -1 is none, as in vLLM; others count from 2**63 downwards."""
    num_seeds = MAX_SEED + 1
    return secrets.randbelow(num_seeds) if asked is None or asked == -1 else asked % num_seeds


def _check_prompt_values(num_top: int | None, num_prompt_tokens: int) -> None:
    if num_top is not None and num_prompt_tokens * (1 + num_top) > MAX_PROMPT_VALUES:
        most = MAX_PROMPT_VALUES // (1 + num_top)
        raise InvalidValue(
            f"prompt_logprobs is {num_top} and the prompt has {num_prompt_tokens} tokens; at most "
            f"{MAX_PROMPT_VALUES} log probabilities of a prompt are returned, for {most} tokens with so many",
            "prompt_logprobs",
        )
