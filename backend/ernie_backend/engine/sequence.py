"""One request inside the engine: its tokens, how far they are computed, and when it ends.

This module must not know the KV cache, tensors or other requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ernie_backend.engine.answer_text import AnswerText
from ernie_backend.runner.logit_edits import LogitEdits
from ernie_backend.runner.logprobs import RankedToken
from ernie_backend.runner.sampler import SampledToken, SamplingRow
from ernie_wire.logprobs import TokenLogprobs, TopLogprob
from ernie_wire.marked_text import MarkedText, joined
from ernie_wire.messages import Output

MAX_UNSENT_LOGPROBS = 256
"""Without ``stream`` all goes in one output, except where log probabilities would make it large."""


@dataclass(frozen=True)
class ResolvedSampling:
    """Sampling parameters with the model's defaults filled in.

    Attributes:
        temperature, top_p, top_k, min_p: see ``ernie_wire.sampling``.
        seed: the request's, else random.
        max_tokens: most tokens to generate; prompt and answer fit the context.
        eos_token_ids: tokens that end the answer; empty with ``ignore_eos``.
        stop_token_ids: more of them.
        includes_stop: the token that ends the answer is part of its text, unless it is skipped there.
        min_tokens: tokens in which no stop text counts; ``edits`` holds off tokens that would end the answer.
        logprobs, prompt_logprobs: how many of the most likely tokens to return; None: no log probabilities.
    """

    temperature: float
    top_p: float
    top_k: int
    seed: int
    max_tokens: int
    eos_token_ids: frozenset[int]
    min_p: float = 0.0
    stop_token_ids: frozenset[int] = frozenset()
    includes_stop: bool = False
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass(eq=False)
class Sequence:
    """A request from its admission to its end.

    Attributes:
        request_id: unique among the requests in the engine.
        prompt_ids: the prompt.
        sampling: how tokens are chosen and when to stop.
        answer: turns tokens into text and finds stop strings.
        edits: what the request changes in its logits; None: nothing.
        stream: whether every new text is sent, or all of it at the end.
        prompt_text: the prompt as text if it was asked for; sent in the first output.
        token_ids: prompt and answer.
        num_computed_tokens: how many of them are in the KV cache.
        finish_reason: ``stop`` or ``length`` at the end.
        priority: the lower, the sooner; equal ones in order of arrival.
        cache_salt: only requests with the same one share KV blocks.
        arrival: order of arrival, given by the engine.
        num_cached_tokens: of the prompt, found in the prefix cache; None until the scheduler has looked.
        prompt_logprobs: of the prompt's tokens as far as they are known; the first has none.
        unsent_text, unsent_ids, unsent_logprobs: what was made and not yet sent.
        has_sent: whether an output was sent.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: ResolvedSampling
    answer: AnswerText
    edits: LogitEdits | None = None
    stream: bool = True
    prompt_text: str | None = None
    token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    finish_reason: str | None = None
    priority: int = 0
    cache_salt: str = ""
    arrival: int = 0
    num_cached_tokens: int | None = None
    unsent_text: list[MarkedText] = field(default_factory=list)
    unsent_ids: list[int] = field(default_factory=list)
    unsent_logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=lambda: [None])
    has_sent: bool = False

    def __post_init__(self) -> None:
        """Begin with the prompt."""
        self.token_ids = list(self.prompt_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.token_ids)

    @property
    def num_generated(self) -> int:
        """Tokens of the answer."""
        return len(self.token_ids) - len(self.prompt_ids)

    @property
    def max_total_tokens(self) -> int:
        """Tokens that prompt and answer take at most."""
        return len(self.prompt_ids) + self.sampling.max_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether all tokens but the newest are in the KV cache."""
        return self.num_computed_tokens == len(self.token_ids) - 1 and self.num_generated > 0

    @property
    def needs_prompt_logits(self) -> bool:
        """Whether logits of its prompt are still wanted: then the prefix cache may not spare any of it."""
        wanted = self.sampling.prompt_logprobs is not None
        return wanted and len(self.prompt_logprobs) < len(self.prompt_ids)

    def sampling_row(self) -> SamplingRow:
        """Return what the sampler needs for the next token."""
        chosen = self.sampling
        return SamplingRow(
            temperature=chosen.temperature,
            top_p=chosen.top_p,
            top_k=chosen.top_k,
            seed=chosen.seed,
            index=self.num_generated,
            min_p=chosen.min_p,
            edits=self.edits,
            num_top=chosen.logprobs,
        )

    def add_prompt_logprobs(self, ranked: Iterable[RankedToken]) -> None:
        """Take what the model thought of the next tokens of the prompt."""
        self.prompt_logprobs += [self._token_logprobs(each) for each in ranked]

    def advance(self, sampled: SampledToken) -> Output | None:
        """Add a sampled token, find out whether it is the last, return what is to be sent now."""
        self.token_ids.append(sampled.token_id)
        self.unsent_ids.append(sampled.token_id)
        if self.edits is not None:
            self.edits.add(sampled.token_id)
        if sampled.ranked is not None:
            is_skipped = self.answer.skips(sampled.token_id)
            self.unsent_logprobs.append(self._token_logprobs(sampled.ranked, is_skipped=is_skipped))
        self.unsent_text.append(self._text_of(sampled.token_id))
        may_wait = not self.stream and len(self.unsent_logprobs) < MAX_UNSENT_LOGPROBS
        if self.finish_reason is None and may_wait:
            return None
        return self._output()

    def _output(self) -> Output:
        is_first = not self.has_sent
        text = joined(self.unsent_text)
        prompt_logprobs = tuple(self.prompt_logprobs) if self.sampling.prompt_logprobs is not None else None
        output = Output(
            request_id=self.request_id,
            text=text.text,
            token_ids=tuple(self.unsent_ids),
            num_input_tokens=len(self.prompt_ids),
            num_cached_tokens=self.num_cached_tokens or 0,
            finish_reason=self.finish_reason,
            prompt_ids=self.prompt_ids if self.prompt_text is not None and is_first else None,
            prompt_text=self.prompt_text if is_first else None,
            logprobs=tuple(self.unsent_logprobs) if self.sampling.logprobs is not None else None,
            prompt_logprobs=prompt_logprobs if is_first else None,
            marks=text.marks,
        )
        self.unsent_text, self.unsent_ids, self.unsent_logprobs, self.has_sent = [], [], [], True
        return output

    def _text_of(self, token_id: int) -> MarkedText:
        """Return the text that is certain with this token; set ``finish_reason`` at the end."""
        sampling = self.sampling
        if token_id in sampling.stop_token_ids or token_id in sampling.eos_token_ids:
            self.finish_reason = "stop"
            return self.answer.finish(token_id if sampling.includes_stop else None)
        text = self.answer.push(token_id, may_stop=self.num_generated > sampling.min_tokens)
        if self.answer.is_stopped:
            self.finish_reason = "stop"
        elif self.num_generated >= sampling.max_tokens:
            text = joined((text, self.answer.finish()))
            self.finish_reason = "stop" if self.answer.is_stopped else "length"
        return text

    def _token_logprobs(self, ranked: RankedToken, *, is_skipped: bool = False) -> TokenLogprobs:
        bytes_of = self.answer.token_bytes
        top = tuple(TopLogprob(token_id, value, bytes_of(token_id)) for token_id, value in ranked.top)
        own_bytes = bytes_of(ranked.token_id)
        return TokenLogprobs(ranked.token_id, ranked.value, own_bytes, ranked.rank, top, is_skipped)
