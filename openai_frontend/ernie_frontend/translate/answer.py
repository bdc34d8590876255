"""What every object of one answer carries, and its usage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ernie_frontend.generation import Delta
from ernie_frontend.schema.common import GenerationFields, StreamOptions


@dataclass(frozen=True)
class AnswerHeader:
    """What is the same in every object of one answer.

    Attributes:
        answer_id: ``chatcmpl-...`` or ``cmpl-...``.
        created: Unix time in seconds.
        model: the public name of the model.
        has_token_ids: the client asked for ``return_token_ids``.
        has_usage: a last chunk with the usage was asked for.
        has_running_usage: the usage so far was asked for in every chunk.
    """

    answer_id: str
    created: int
    model: str
    has_token_ids: bool = False
    has_usage: bool = False
    has_running_usage: bool = False

    @classmethod
    def of(cls, body: GenerationFields, answer_id: str, created: int, model: str) -> AnswerHeader:
        """Return the header of the answer to a request."""
        options = body.stream_options or StreamOptions(include_usage=False)
        return cls(
            answer_id=answer_id,
            created=created,
            model=model,
            has_token_ids=bool(body.return_token_ids),
            has_usage=options.include_usage,
            has_running_usage=options.continuous_usage_stats,
        )

    def to_object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return an answer or a chunk, without usage."""
        return {
            "id": self.answer_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def usage(num_input_tokens: int, num_output_tokens: int) -> dict[str, Any]:
    """Return the usage object. Text models have no cached, reasoning or media tokens yet: those are 0."""
    return {
        "prompt_tokens": num_input_tokens,
        "completion_tokens": num_output_tokens,
        "total_tokens": num_input_tokens + num_output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 0, "video_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "image_tokens": 0},
    }


class UsageCount:
    """Counts the tokens of an answer with several choices while its deltas come."""

    def __init__(self) -> None:
        self._num_input_tokens: dict[int, int] = {}
        self.num_output_tokens = 0

    def add(self, index: int, delta: Delta) -> None:
        """Count a delta of the choice ``index``."""
        self._num_input_tokens[index] = delta.num_input_tokens
        self.num_output_tokens += delta.num_output_tokens

    def add_all(self, answers: Iterable[Delta]) -> None:
        """Count whole answers, one for each choice."""
        for index, answer in enumerate(answers):
            self.add(index, answer)

    @property
    def num_input_tokens(self) -> int:
        """Tokens of all prompts seen so far."""
        return sum(self._num_input_tokens.values())

    def to_json(self) -> dict[str, Any]:
        """Return the usage object."""
        return usage(self.num_input_tokens, self.num_output_tokens)
