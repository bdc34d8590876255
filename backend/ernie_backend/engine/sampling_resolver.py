"""The sampling parameters of a request, checked against the model and completed with the model's defaults."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

from ernie_backend.chat.formats import AnswerFormat
from ernie_backend.chat.tokenizer import NullTokenizer, Tokenizer
from ernie_backend.config.generation_config import GenerationConfig
from ernie_backend.request.reasoning import ReasoningTracker
from ernie_backend.request.sampling import LogitsProcessor, ResolvedSampling
from ernie_backend.runner.logits_processors import (
    AllowedTokens,
    BadWords,
    LogitBias,
    MinTokens,
    Penalties,
    ReasoningBudget,
)
from ernie_backend.settings.engine_settings import LogprobLimits
from ernie_kernels.sampling import SamplingFilters
from ernie_wire.checks import check_token_ids
from ernie_wire.errors import ContextLengthExceeded, InvalidValue
from ernie_wire.repetition import RepetitionDetection
from ernie_wire.sampling import MAX_SEED, SamplingParameters

_DEFAULT_SHARE = 0.8
"""Share of ``max_tokens`` that thinking gets in models whose requests switch it: FastDeploy's."""
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
        format: how the model's answers are written.
    """

    tokenizer: Tokenizer | NullTokenizer
    defaults: GenerationConfig
    vocab_size: int
    logprob_limits: LogprobLimits
    format: AnswerFormat

    def resolve(self, requested: SamplingParameters, num_prompt_tokens: int, room: int) -> ResolvedSampling:
        """Return how tokens are chosen and when the answer ends.

        Args:
            requested: what the request says.
            num_prompt_tokens: tokens of the prompt.
            room: tokens that the context leaves for the answer.

        Raises:
            InvalidRequest: a value that this model or server does not allow.
        """
        self._check(requested)
        if requested.min_tokens > room:
            context = num_prompt_tokens + room
            raise ContextLengthExceeded.of(context, num_prompt_tokens, requested.min_tokens, "min_tokens")
        prompt_logprobs = self._num_logprobs("prompt_logprobs", requested.prompt_logprobs)
        _check_prompt_values(prompt_logprobs, num_prompt_tokens)
        defaults = self.defaults
        max_tokens = requested.max_tokens if requested.max_tokens is not None else defaults.max_new_tokens
        return ResolvedSampling(
            filters=SamplingFilters._make(self._value(requested, name) for name in SamplingFilters._fields),
            seed=_resolved_seed(requested.seed),
            max_tokens=min(max(max_tokens, requested.min_tokens), room) if max_tokens is not None else room,
            min_tokens=requested.min_tokens,
            response_max_tokens=requested.response_max_tokens,
            repetition=self._repetition(requested),
            eos_token_ids=frozenset() if requested.ignore_eos else frozenset(defaults.eos_token_ids),
            stop_token_ids=frozenset(requested.stop_token_ids),
            includes_stop=requested.include_stop_str_in_output,
            logprobs=self._num_logprobs("logprobs", requested.logprobs),
            prompt_logprobs=prompt_logprobs,
        )

    def processors(
        self,
        requested: SamplingParameters,
        resolved: ResolvedSampling,
        prompt_ids: Iterable[int],
        *,
        thinks: bool,
    ) -> tuple[LogitsProcessor, ...]:
        """Return the logits processors that the request needs; most need none.

        Rules for tokens that the tokenizer lacks are left out: those tokens are never chosen.

        Args:
            requested: what the request says.
            resolved: the same with the model's defaults.
            prompt_ids: the prompt.
            thinks: whether the prompt ends within thinking.

        Raises:
            InvalidRequest: every token may be excluded at once.
        """
        vocab_size = self.tokenizer.vocab_size
        bias = {token_id: value for token_id, value in requested.logit_bias.items() if token_id < vocab_size}
        words = (*((each,) for each in requested.bad_words_token_ids), *self._bad_words(requested.bad_words))
        words = tuple(word for word in words if word[-1] < vocab_size)
        ending = self._known(resolved.eos_token_ids | resolved.stop_token_ids)
        allowed = None if requested.allowed_token_ids is None else self._known(requested.allowed_token_ids)
        processors: list[LogitsProcessor] = []
        if bias:
            processors.append(LogitBias(bias))
        processors += self._penalties(requested, prompt_ids)
        if allowed is not None:
            processors.append(AllowedTokens(allowed))
        if words:
            processors.append(BadWords(words))
        if requested.min_tokens and ending:
            processors.append(MinTokens(requested.min_tokens, ending))
        self._check_choice(allowed, {word[-1] for word in words} | (ending if requested.min_tokens else set()))
        return (*processors, *self._budget(requested, resolved, thinks=thinks))

    def _budget(
        self, requested: SamplingParameters, resolved: ResolvedSampling, *, thinks: bool
    ) -> Iterator[ReasoningBudget]:
        """Yield what limits thinking, if anything does."""
        tags, limit = self.format.think_tags, requested.reasoning_max_tokens
        if limit is None and requested.max_tokens and self.format.is_switched and thinks:
            limit = max(1, int(_DEFAULT_SHARE * resolved.max_tokens))
        if tags is not None and limit is not None:
            yield ReasoningBudget(ReasoningTracker(tags, is_open=thinks), limit, self.format.closing_ids)

    def _repetition(self, requested: SamplingParameters) -> RepetitionDetection | None:
        """Return which loop ends the answer, by the request or else by the model's default; None: none."""
        asked = requested.repetition_detection
        detection = self.defaults.repetition if asked is None else RepetitionDetection.from_json(asked)
        return detection if detection.max_pattern_size else None

    def _known(self, token_ids: Iterable[int]) -> set[int]:
        return {token_id for token_id in token_ids if token_id < self.tokenizer.vocab_size}

    def _penalties(self, requested: SamplingParameters, prompt_ids: Iterable[int]) -> Iterator[Penalties]:
        names = ("repetition_penalty", "frequency_penalty", "presence_penalty")
        repetition, frequency, presence = (self._value(requested, name) for name in names)
        if (repetition, frequency, presence) != (1, 0, 0):
            known = self._known(prompt_ids)
            yield Penalties(known, repetition=repetition, frequency=frequency, presence=presence)

    def _value(self, requested: SamplingParameters, name: str) -> float:
        """Return one of ``MODEL_DEFAULTS``: what a request says, else the model's default."""
        value: float | None = getattr(requested, name)
        default: float = getattr(self.defaults.sampling, name)
        return default if value is None else value

    def _check_choice(self, allowed: Set[int] | None, excluded: Set[int]) -> None:
        """Check that a token is left wherever the answer may be, where all phrases might end at once."""
        if allowed is None:
            if len(excluded) >= self.tokenizer.vocab_size:
                message = "bad_words, bad_words_token_ids and min_tokens together exclude every token"
                raise InvalidValue(message, "bad_words_token_ids")
        elif allowed <= excluded:
            raise InvalidValue(
                "allowed_token_ids leaves no token that bad_words, bad_words_token_ids and min_tokens do not "
                "exclude and that the tokenizer has",
                "allowed_token_ids",
            )

    def _bad_words(self, words: Iterable[str]) -> Iterable[tuple[int, ...]]:
        """Return the tokens of each word without and with a space before it, but of no other spelling."""
        for word in words:
            try:
                spellings = {self.tokenizer.encode(word), self.tokenizer.encode(" " + word)}
            except UnicodeEncodeError:
                message = "bad_words holds half of a surrogate pair, which is not text"
                raise InvalidValue(message, "bad_words") from None
            yield from sorted(spellings)

    def _check(self, requested: SamplingParameters) -> None:
        for name in ("stop_token_ids", "bad_words_token_ids", "allowed_token_ids", "logit_bias"):
            check_token_ids(name, getattr(requested, name) or (), self.vocab_size - 1)

    def _num_logprobs(self, name: str, count: int | None) -> int | None:
        """Return the number of log probabilities for each token; a ``count`` of -1 means all of them."""
        if count is None:
            return None
        if not self.logprob_limits.enable_logprob:  # FastDeploy's text
            raise InvalidValue("Logprobs is disabled, please enable it in startup config.", name)
        limit = self.logprob_limits.max_logprobs
        num_top = self.vocab_size if count == -1 else count
        if 0 <= limit < num_top:
            all_of = f", all {num_top} tokens" if count == -1 else ""
            raise InvalidValue(f"{name} is {count}{all_of}; it must be at most {limit} (max_logprobs)", name)
        return num_top


def _resolved_seed(seed: int | None) -> int:
    """Return a seed >= 0: -1 means random, as in vLLM; other negative ones count from 2**63 downwards."""
    num_seeds = MAX_SEED + 1
    return secrets.randbelow(num_seeds) if seed is None or seed == -1 else seed % num_seeds


def _check_prompt_values(num_top: int | None, num_prompt_tokens: int) -> None:
    if num_top is not None and num_prompt_tokens * (1 + num_top) > MAX_PROMPT_VALUES:
        most = MAX_PROMPT_VALUES // (1 + num_top)
        raise InvalidValue(
            f"prompt_logprobs is {num_top} and the prompt has {num_prompt_tokens} tokens; at most "
            f"{MAX_PROMPT_VALUES} log probabilities of a prompt are returned, here for {most} tokens",
            "prompt_logprobs",
        )
