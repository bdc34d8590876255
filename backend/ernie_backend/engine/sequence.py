"""One request inside the engine: its tokens, how far they are computed, and when it ends.

This module must not know the KV cache, tensors or other requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ernie_backend.engine.answer_text import AnswerText
from ernie_backend.runner.sampler import SamplingRow
from ernie_wire.messages import Output


@dataclass(frozen=True)
class ResolvedSampling:
    """Sampling parameters with the model's defaults filled in.

    Attributes:
        temperature, top_p, top_k, seed: see ``ernie_wire.sampling``; the seed is random if none was given.
        max_tokens: most tokens to generate; prompt and answer fit the context.
        eos_token_ids: tokens that end the answer; empty with ``ignore_eos``.
    """

    temperature: float
    top_p: float
    top_k: int
    seed: int
    max_tokens: int
    eos_token_ids: frozenset[int]


@dataclass(eq=False)
class Sequence:
    """A request from its admission to its end.

    Attributes:
        request_id: unique among the requests in the engine.
        prompt_ids: the prompt.
        sampling: how tokens are chosen and when to stop.
        answer: turns tokens into text and finds stop strings.
        stream: whether every new text is sent, or all of it at the end.
        prompt_text: the prompt as text if it was asked for; sent in the first output.
        token_ids: prompt and answer.
        num_computed_tokens: how many of them are in the KV cache.
        finish_reason: ``stop`` or ``length`` at the end.
        priority: the lower, the sooner; equal ones in order of arrival.
        arrival: order of arrival, given by the engine.
        num_cached_tokens: of the prompt, found in the prefix cache; None until the scheduler has looked.
        unsent_text, unsent_ids: what was made and not yet sent; has_sent: whether an output was sent.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: ResolvedSampling
    answer: AnswerText
    stream: bool = True
    prompt_text: str | None = None
    token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    finish_reason: str | None = None
    priority: int = 0
    arrival: int = 0
    num_cached_tokens: int | None = None
    unsent_text: str = ""
    unsent_ids: list[int] = field(default_factory=list)
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

    def sampling_row(self) -> SamplingRow:
        """Return what the sampler needs for the next token."""
        chosen = self.sampling
        return SamplingRow(chosen.temperature, chosen.top_p, chosen.top_k, chosen.seed, self.num_generated)

    def advance(self, token_id: int) -> Output | None:
        """Add a sampled token, find out whether it is the last, return what is to be sent now."""
        self.token_ids.append(token_id)
        self.unsent_ids.append(token_id)
        self.unsent_text += self._text_of(token_id)
        if self.finish_reason is None and not self.stream:
            return None
        output = Output(
            request_id=self.request_id,
            text=self.unsent_text,
            token_ids=tuple(self.unsent_ids),
            num_input_tokens=len(self.prompt_ids),
            num_cached_tokens=self.num_cached_tokens or 0,
            finish_reason=self.finish_reason,
            prompt_ids=self.prompt_ids if self.prompt_text is not None and not self.has_sent else None,
            prompt_text=self.prompt_text if not self.has_sent else None,
        )
        self.unsent_text, self.unsent_ids, self.has_sent = "", [], True
        return output

    def _text_of(self, token_id: int) -> str:
        """Return the text that is certain with this token; set ``finish_reason`` at the end."""
        if token_id in self.sampling.eos_token_ids:
            self.finish_reason = "stop"
            return self.answer.finish()
        text = self.answer.push(token_id)
        if self.answer.is_stopped:
            self.finish_reason = "stop"
        elif self.num_generated >= self.sampling.max_tokens:
            text += self.answer.finish()
            self.finish_reason = "stop" if self.answer.is_stopped else "length"
        return text
