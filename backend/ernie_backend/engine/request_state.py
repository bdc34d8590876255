"""A request in the engine: the sequence that is computed, and the output made of its tokens.

Tokens become text, stop tokens and stop strings end the answer, and what is not sent yet is collected.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ernie_backend.engine.detokenizer import Detokenizer
from ernie_backend.engine.prompt_lookup import PromptLookup
from ernie_backend.engine.repetition import RepetitionGuard
from ernie_backend.engine.stop import StopMatcher
from ernie_backend.grammar.compiler import PendingMask
from ernie_backend.request.reasoning import ReasoningTracker
from ernie_backend.request.sequence import Sequence
from ernie_backend.runner.logprobs import ScoredToken
from ernie_backend.runner.sampler import SampledToken
from ernie_wire.logprobs import TokenLogprobs, TopLogprob
from ernie_wire.marked_text import MarkedText, joined
from ernie_wire.messages import Output
from ernie_wire.repetition import STOP_REASON

MAX_UNSENT_LOGPROBS = 256
"""Without ``stream`` there is one output, unless log probabilities would make it large."""


class PromptParts(NamedTuple):
    """Parts of a prompt that a client may request, each None if it did not.

    Attributes:
        text: the rendered prompt; with it go the token ids.
        last_tag: text of its last thinking tag, empty if there is none.
        token_bytes: what each token stands for.
        num_image_tokens, num_video_tokens: tokens that stand for media; always there.
    """

    text: str | None = None
    last_tag: str | None = None
    token_bytes: tuple[bytes, ...] | None = None
    num_image_tokens: int = 0
    num_video_tokens: int = 0


class RequestState:
    """A request from its admission to its end.

    Args:
        sequence: its tokens.
        detokenizer: turns those of the answer into text.
        stop: finds stop strings.
        stream: whether every new text is sent, or all of it at the end.
        prompt: what the first output says of the prompt.
        reasoning: follows the thinking in the answer; None: the model has none.
        pending_mask: of the answer's grammar; ``start_mask`` is called before the engine gets the request.
        lookup: drafts its tokens; None: nothing does.

    Attributes:
        finish_reason: ``stop`` or ``length`` at the end.
        stop_reason: what cut an answer that no limit of length did; None: nothing.
    """

    def __init__(
        self,
        sequence: Sequence,
        detokenizer: Detokenizer,
        stop: StopMatcher,
        *,
        stream: bool = True,
        prompt: PromptParts = PromptParts(),  # noqa: B008  it is frozen
        reasoning: ReasoningTracker | None = None,
        pending_mask: PendingMask | None = None,
        lookup: PromptLookup | None = None,
    ) -> None:
        self.sequence = sequence
        self.pending_mask = pending_mask
        self.finish_reason: str | None = None
        self.stop_reason: str | None = None
        self._detokenizer = detokenizer
        self._stop = stop
        repetition = sequence.sampling.repetition
        self._guard = None if repetition is None else RepetitionGuard(repetition)
        self._stream = stream
        self._prompt = prompt
        self._reasoning = reasoning
        self._num_sent_reasoning = 0
        self._lookup = lookup
        self._num_accepted_drafts = self._num_rejected_drafts = 0  # since the last output
        self._prompt_logprobs: list[TokenLogprobs | None] = [None]  # the first token has none
        self._unsent_text: list[MarkedText] = []
        self._unsent_ids: list[int] = []
        self._unsent_logprobs: list[TokenLogprobs] = []
        self._has_sent = False

    @property
    def request_id(self) -> str:
        """Unique among the requests in the engine."""
        return self.sequence.request_id

    def start_mask(self) -> None:
        """Give the sequence its token mask, if it has one, after waiting for the grammar.

        Raises:
            InvalidValue: the grammar is wrong.
        """
        if self.pending_mask is not None:
            self.sequence.token_mask = self.pending_mask.start()

    @property
    def prompt_text(self) -> str | None:
        """The rendered prompt, if the client requested it."""
        return self._prompt.text

    def add_prompt_logprobs(self, scored: Iterable[ScoredToken]) -> None:
        """Add the log probabilities of the next tokens of the prompt."""
        self._prompt_logprobs += [self._token_logprobs(each) for each in scored]
        self.sequence.num_scored_tokens = len(self._prompt_logprobs)

    def draft(self) -> None:
        """Guess the tokens that follow, if something does, for the next step to check."""
        if self._lookup is not None:
            self.sequence.draft_ids = self._lookup.propose()

    def report_drafts(self, num_drafts: int, num_accepted: int) -> None:
        """Note how many of the drafts that a step checked were right."""
        if self._lookup is not None and num_drafts:
            self._lookup.report(num_drafts, num_accepted)
            self._num_accepted_drafts += num_accepted
            self._num_rejected_drafts += num_drafts - num_accepted

    def finish_without_tokens(self) -> Output:
        """Return the only output of a request for no tokens."""
        self.finish_reason = "length"
        return self._output()

    def advance(self, tokens: Iterable[SampledToken]) -> Output | None:
        """Add sampled tokens up to one that ends the answer; return the output to send now, if any."""
        if self.sequence.sampling.max_tokens == 0:  # the row was sampled since every prompt's last one is
            return self.finish_without_tokens()
        for token in tokens:
            if self.finish_reason is None:
                self._append(token)
        may_wait = not self._stream and len(self._unsent_logprobs) < MAX_UNSENT_LOGPROBS
        if self.finish_reason is None and may_wait:
            return None
        return self._output()

    def _append(self, sampled: SampledToken) -> None:
        token_id = sampled.token_id
        self.sequence.append(token_id)
        if self._reasoning is not None:
            self._reasoning.accept(token_id)
        self._unsent_ids.append(token_id)
        if sampled.scored is not None:
            is_skipped = self._detokenizer.skips(token_id)
            self._unsent_logprobs.append(self._token_logprobs(sampled.scored, is_skipped=is_skipped))
        self._unsent_text.append(self._text_of(token_id))

    def _output(self) -> Output:
        sequence, sampling, is_first = self.sequence, self.sequence.sampling, not self._has_sent
        prompt = self._prompt if is_first else PromptParts()
        text = self._unsent_text[0] if len(self._unsent_text) == 1 else joined(self._unsent_text)
        prompt_logprobs = tuple(self._prompt_logprobs) if sampling.prompt_logprobs is not None else None
        num_reasoning = 0 if self._reasoning is None else self._reasoning.num_reasoning_tokens
        output = Output(
            request_id=sequence.request_id,
            text=text.text,
            token_ids=tuple(self._unsent_ids),
            num_output_tokens=len(self._unsent_ids),
            num_input_tokens=len(sequence.prompt_ids),
            num_cached_tokens=sequence.num_cached_tokens or 0,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            prompt_ids=sequence.prompt_ids if prompt.text is not None else None,
            prompt_text=prompt.text,
            prompt_bytes=prompt.token_bytes,
            logprobs=tuple(self._unsent_logprobs) if sampling.logprobs is not None else None,
            prompt_logprobs=prompt_logprobs if is_first else None,
            marks=text.marks,
            num_reasoning_tokens=num_reasoning - self._num_sent_reasoning,
            prompt_tag=prompt.last_tag,
            num_image_tokens=prompt.num_image_tokens,
            num_video_tokens=prompt.num_video_tokens,
            num_accepted_drafts=self._num_accepted_drafts,
            num_rejected_drafts=self._num_rejected_drafts,
        )
        self._num_accepted_drafts = self._num_rejected_drafts = 0
        self._num_sent_reasoning = num_reasoning
        self._unsent_text, self._unsent_ids, self._unsent_logprobs, self._has_sent = [], [], [], True
        return output

    def _text_of(self, token_id: int) -> MarkedText:
        """Return the text that is certain with this token; set ``finish_reason`` at the end."""
        sampling, num_generated = self.sequence.sampling, self.sequence.num_generated
        if token_id in sampling.stop_token_ids or token_id in sampling.eos_token_ids:
            self.finish_reason = "stop"
            return self._last_text(token_id if sampling.includes_stop else None)
        text = self._stop.push(self._detokenizer.push(token_id), may_stop=num_generated > sampling.min_tokens)
        mask = self.sequence.token_mask
        is_complete = mask is not None and mask.is_complete
        is_full = num_generated >= sampling.max_tokens or self._is_response_full(num_generated)
        is_loop = (
            self._guard is not None and self._guard.push(token_id) and num_generated >= sampling.min_tokens
        )
        if self._stop.is_stopped:
            self.finish_reason = "stop"
        elif is_complete or is_full or is_loop:
            text = joined((text, self._last_text()))
            self.finish_reason = "stop" if is_complete or self._stop.is_stopped else "length"
            if self.finish_reason == "length" and not is_full:
                self.stop_reason = STOP_REASON
        return text

    def _is_response_full(self, num_generated: int) -> bool:
        """Whether there is no room for a further token after thinking."""
        limit, reasoning = self.sequence.sampling.response_max_tokens, self._reasoning
        if limit is None or (reasoning is not None and reasoning.is_thinking):
            return False
        num_reasoning = 0 if reasoning is None else reasoning.num_reasoning_tokens
        return num_generated - num_reasoning >= limit

    def _last_text(self, last_id: int | None = None) -> MarkedText:
        """Return all text that was held back, and that of ``last_id``, which ends the answer as part of it."""
        text = self._detokenizer.push(last_id) if last_id is not None else MarkedText()
        text = self._stop.push(joined((text, self._detokenizer.finish())))
        return joined((text, self._stop.finish()))

    def _token_logprobs(self, scored: ScoredToken, *, is_skipped: bool = False) -> TokenLogprobs:
        bytes_of = self._detokenizer.token_bytes
        top = tuple(TopLogprob(token_id, value, bytes_of(token_id)) for token_id, value in scored.top)
        own_bytes = bytes_of(scored.token_id)
        return TokenLogprobs(scored.token_id, scored.value, own_bytes, scored.rank, top, is_skipped)
