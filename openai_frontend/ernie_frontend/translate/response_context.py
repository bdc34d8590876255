"""What all objects of one response share, its usage, and the choice of the best answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ernie_frontend.parsing.answer_parser import JSON_CALLS, AnswerFormat
from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.common import GenerationFields, StreamOptions
from ernie_wire.messages import Output
from ernie_wire.status import Description


@dataclass(frozen=True)
class ResponseContext:
    """What all objects of one response share: the whole answer, or the chunks of a stream.

    Attributes:
        answer_id: ``chatcmpl-...`` or ``cmpl-...``.
        created: Unix time in seconds.
        model: the public name of the model.
        return_token_ids: whether token ids and raw texts are returned.
        has_echo: whether choices begin with the prompt.
        num_logprobs: alternatives for each token of the answer, -1 for all; None: no log probabilities.
        num_prompt_logprobs: the same for the prompt's tokens in ``prompt_logprobs``.
        has_usage: whether a last chunk has the usage.
        has_running_usage: whether every chunk has the usage so far.
        warnings: what the client should know although it is answered; sent in a header.
        form: the format of the answers, which are parsed by it.
    """

    answer_id: str
    created: int
    model: str
    return_token_ids: bool = False
    has_echo: bool = False
    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    has_usage: bool = False
    has_running_usage: bool = False
    warnings: tuple[str, ...] = ()
    form: AnswerFormat = field(default_factory=AnswerFormat)

    @classmethod
    def of(
        cls, body: GenerationFields, answer_id: str, created: int, model: str, warnings: tuple[str, ...] = ()
    ) -> ResponseContext:
        """Return the context of the response to a request."""
        options = body.stream_options or StreamOptions(include_usage=False)
        return cls(
            answer_id=answer_id,
            created=created,
            model=model,
            return_token_ids=bool(body.return_token_ids),
            has_echo=body.has_echo,
            num_logprobs=body.num_logprobs,
            num_prompt_logprobs=body.prompt_logprobs,
            has_usage=bool(options.include_usage),
            has_running_usage=bool(options.continuous_usage_stats),
            warnings=warnings,
        )

    def has_token_data(self, new: Output) -> bool:
        """Whether an output has requested data of its tokens, which the client gets even without text."""
        has_logprobs = self.num_logprobs is not None and bool(new.logprobs)
        return has_logprobs or (self.return_token_ids and bool(new.token_ids))

    def to_object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a whole answer or a chunk, without usage."""
        return {
            "id": self.answer_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def answer_format(body: GenerationFields, engine: Description | None) -> AnswerFormat:
    """Return the format of the answers to a request: text, unless it is a conversation.

    Args:
        body: the checked request.
        engine: the description of the engine that answers, if there is one.
    """
    if not isinstance(body, ChatRequest) or engine is None:
        return AnswerFormat()
    tool_call_parser = None
    if body.tool_request is not None:
        forced = JSON_CALLS if body.tool_request.is_required else None
        tool_call_parser = engine.tool_call_parser or forced
    is_continued = bool(body.continue_final_message or body.completion_token_ids)
    return AnswerFormat(engine.reasoning_parser, tool_call_parser, is_continued)


class UsageCounter:
    """Counts the tokens of a request's generations while their outputs arrive.

    A prompt counts once, whatever the number of its answers; of the answers every token counts, also of
    candidates that ``best_of`` rejects. Cached tokens are those that all generations of a prompt found in the
    prefix cache: what one computed and another found was not there before the request.

    Args:
        num_candidates: number of generations of each prompt.
    """

    def __init__(self, num_candidates: int = 1) -> None:
        self._num_candidates = num_candidates
        self._num_input_tokens: dict[int, int] = {}  # by prompt
        self._num_cached_tokens: dict[int, int] = {}  # by generation
        self._num_media_tokens: dict[int, tuple[int, int]] = {}  # by prompt: of images, of videos
        self._num_reasoning_tokens = 0
        self._num_accepted_drafts = self._num_rejected_drafts = 0
        self.num_output_tokens = 0

    def add(self, index: int, output: Output) -> None:
        """Count an output of the generation ``index``."""
        prompt = index // self._num_candidates
        self._num_input_tokens[prompt] = output.num_input_tokens
        if output.num_image_tokens or output.num_video_tokens:  # in the first output only
            self._num_media_tokens[prompt] = output.num_image_tokens, output.num_video_tokens
        cached = max(output.num_cached_tokens, self._num_cached_tokens.get(index, 0))
        self._num_cached_tokens[index] = cached
        self.num_output_tokens += output.num_output_tokens
        self._num_reasoning_tokens += output.num_reasoning_tokens
        self._num_accepted_drafts += output.num_accepted_drafts
        self._num_rejected_drafts += output.num_rejected_drafts

    def add_all(self, answers: Sequence[Output]) -> None:
        """Count whole answers, one for each generation."""
        for index, answer in enumerate(answers):
            self.add(index, answer)

    @property
    def num_input_tokens(self) -> int:
        """Tokens of all prompts seen so far."""
        return sum(self._num_input_tokens.values())

    @property
    def num_drafts(self) -> tuple[int, int]:
        """Guesses of tokens: right ones, wrong ones."""
        return self._num_accepted_drafts, self._num_rejected_drafts

    @property
    def num_cached_tokens(self) -> int:
        """Of these, the tokens that were in the prefix cache."""
        fewest: dict[int, int] = {}
        for index, cached in self._num_cached_tokens.items():
            prompt = index // self._num_candidates
            fewest[prompt] = min(cached, fewest.get(prompt, cached))
        return sum(fewest.values())

    def to_json(self) -> dict[str, Any]:
        """Return the usage object."""
        media = self._num_media_tokens.values()
        return {
            "prompt_tokens": self.num_input_tokens,
            "completion_tokens": self.num_output_tokens,
            "total_tokens": self.num_input_tokens + self.num_output_tokens,
            "prompt_tokens_details": {
                "cached_tokens": self.num_cached_tokens,
                "image_tokens": sum(of_images for of_images, _ in media),
                "video_tokens": sum(of_videos for _, of_videos in media),
            },
            "completion_tokens_details": {
                "reasoning_tokens": self._num_reasoning_tokens,
                "image_tokens": 0,
                "accepted_prediction_tokens": self._num_accepted_drafts,
                "rejected_prediction_tokens": self._num_rejected_drafts,
            },
        }


def end_of_choice(last: Output) -> dict[str, str | None]:
    """Return the fields of a choice that say why the answer ends, from its last output."""
    cause = {} if last.stop_reason is None else {"stop_reason": last.stop_reason}
    return {"finish_reason": last.finish_reason, **cause}


def best(answers: Sequence[Output], num_candidates: int, n: int) -> list[Output]:
    """Return for each prompt its ``n`` answers with the highest log probability per token, best first."""
    if num_candidates == n:
        return list(answers)
    chosen: list[Output] = []
    for start in range(0, len(answers), num_candidates):
        candidates = answers[start : start + num_candidates]
        chosen += sorted(candidates, key=_mean_logprob, reverse=True)[:n]
    return chosen


def _mean_logprob(answer: Output) -> float:
    logprobs = [entry.logprob for entry in answer.logprobs or () if entry is not None]
    return sum(logprobs) / len(logprobs) if logprobs else 0.0
