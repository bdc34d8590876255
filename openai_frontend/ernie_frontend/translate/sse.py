"""The outputs of a streamed answer as server-sent events, in FastDeploy's order.

    opening chunks of all choices, text chunks, finish chunk (for each choice), usage chunk if asked for, [DONE]

Choices open in the order of their index, before any text: official clients put an answer together by place.
What a chunk looks like is decided by ``chat_response`` and ``completion_response``; this module must not know.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ernie_frontend.http_errors import envelope
from ernie_frontend.translate.response_context import ResponseContext, UsageCounter
from ernie_wire.errors import ErnieError
from ernie_wire.messages import Output

_DONE = b"data: [DONE]\n\n"
Choice = dict[str, Any]


class StreamWriter(Protocol):
    """Writes the events of one streamed answer, in the way of one API."""

    def events(self, index: int, output: Output) -> bytes:
        """Return the events that an output of the answer ``index`` makes; empty if there are none."""

    def end(self) -> bytes:
        """Return the events after the last output."""

    def fail(self, error: ErnieError) -> bytes:
        """Return the events that end a stream in which something went wrong."""


class ChoiceChunks(Protocol):
    """The choices of one generation, chunk by chunk."""

    def opening(self, first: Output) -> Choice:
        """Return the choice before the first text of all; ``first`` is the first output of any choice."""

    def prompt(self, first: Output) -> Choice | None:
        """Return the choice with what was asked of its prompt, or None; ``first`` is its first output."""

    def text(self, new: Output) -> Choice:
        """Return the choice with new text."""

    def finish(self, finish_reason: str) -> Choice:
        """Return the choice with the finish reason."""


@dataclass(frozen=True)
class ChunkShape:
    """How the chunks of one endpoint look.

    Attributes:
        kind: the ``object`` of a chunk.
        start: makes the choices of the generation with an index.
        opens_single: whether an answer of a single choice has an opening chunk; others always have.
    """

    kind: str
    start: Callable[[ResponseContext, int], ChoiceChunks]
    opens_single: bool


def event(content: dict[str, Any]) -> bytes:
    """Return one server-sent event without a name."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class ChunkWriter(StreamWriter):
    """Writes each choice as chunks of its own, which is OpenAI's way in chat and completions.

    Args:
        shape: how the chunks of the endpoint look.
        header: what every chunk carries.
        num_choices: of the answer.
        count: the tokens of all outputs so far, that which is written included.
    """

    def __init__(
        self, shape: ChunkShape, header: ResponseContext, num_choices: int, count: UsageCounter
    ) -> None:
        self._count = count
        self._header = header
        self._kind = shape.kind
        self._chunks = [shape.start(header, index) for index in range(num_choices)]
        self._has_openings = shape.opens_single or num_choices > 1
        self._begun: set[int] = set()

    def events(self, index: int, output: Output) -> bytes:
        """Return the events that an output of the choice ``index`` makes; empty if there are none."""
        choices = []
        if self._has_openings and not self._begun:
            choices += [chunks.opening(output) for chunks in self._chunks]
        choices += self._choices(self._chunks[index], output, is_first=index not in self._begun)
        self._begun.add(index)
        return b"".join(self._chunk(choice) for choice in choices)

    def end(self) -> bytes:
        """Return the events after the last output: the usage if it was asked for, and ``[DONE]``."""
        if not self._header.has_usage:
            return _DONE
        return event({**self._header.to_object(self._kind, []), "usage": self._count.to_json()}) + _DONE

    def fail(self, error: ErnieError) -> bytes:
        """Return the events that end a stream in which something went wrong: the error, and ``[DONE]``."""
        return event(envelope(error)) + _DONE

    def _choices(self, chunks: ChoiceChunks, output: Output, *, is_first: bool) -> list[Choice]:
        choices = []
        prompt = chunks.prompt(output) if is_first else None
        if prompt is not None:
            choices.append(prompt)
        has_tokens = bool(self._header.return_token_ids and output.token_ids)
        has_logprobs = bool(self._header.num_logprobs is not None and output.logprobs)
        if output.text or has_tokens or has_logprobs:
            choices.append(chunks.text(output))
        if output.finish_reason is not None:
            choices.append(chunks.finish(output.finish_reason))
        return choices

    def _chunk(self, choice: Choice) -> bytes:
        chunk = self._header.to_object(self._kind, [choice])
        if self._header.has_running_usage:
            chunk["usage"] = self._count.to_json()
        elif self._header.has_usage:
            chunk["usage"] = None
        return event(chunk)
