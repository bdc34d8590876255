"""The outputs of a streamed answer as server-sent events, in FastDeploy's order.

    opening chunks of all choices, text chunks, finish chunk (for each choice), usage chunk if requested, [DONE]

Choices open in the order of their index, before any text: official clients assemble an answer by position. The
content of a chunk comes from ``chat_response`` and ``completion_response``.
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
_NO_CHOICES = b"]}\n\n"  # the end of a chunk that has none
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
Choice = dict[str, Any]


class StreamWriter(Protocol):
    """Writes the events of one streamed answer, in the format of one API."""

    def events(self, index: int, output: Output) -> bytes:
        """Return the events for an output of the answer ``index``; may be empty."""

    def end(self) -> bytes:
        """Return the events after the last output."""

    def fail(self, error: ErnieError) -> bytes:
        """Return the events that end a stream with an error."""


class ChoiceChunks(Protocol):
    """The choices of one generation, chunk by chunk."""

    def opening(self, first: Output) -> Choice:
        """Return the choice of the opening chunk; ``first`` is the first output of any choice."""

    def prompt(self, first: Output) -> Choice | None:
        """Return the choice with the requested data of its prompt, or None; ``first`` is its first output."""

    def text(self, new: Output) -> list[Choice]:
        """Return the choices with what an output adds to the answer, each for a chunk of its own."""

    def finish(self, last: Output) -> Choice:
        """Return the choice with the finish reason of the last output."""


@dataclass(frozen=True)
class ChunkShape:
    """The format of an endpoint's chunks.

    Attributes:
        kind: the ``object`` of a chunk.
        start: returns the choices of the generation with an index.
        opens_single: whether an answer with one choice has an opening chunk; with several it always does.
    """

    kind: str
    start: Callable[[ResponseContext, int], ChoiceChunks]
    opens_single: bool


def event(content: dict[str, Any]) -> bytes:
    """Return one server-sent event without a name."""
    return b"data: " + _json(content) + b"\n\n"


def _json(content: dict[str, Any]) -> bytes:
    return _ENCODER.encode(content).encode()


class ChunkWriter(StreamWriter):
    """Writes chunks of one choice each: OpenAI's format of chat and completions.

    Args:
        shape: of the endpoint's chunks.
        response: what every chunk carries.
        num_choices: number of choices of the answer.
        usage: the tokens of all outputs so far, including the one being written.
    """

    def __init__(
        self, shape: ChunkShape, response: ResponseContext, num_choices: int, usage: UsageCounter
    ) -> None:
        self._usage = usage
        self._response = response
        self._kind = shape.kind
        # What all chunks begin with is encoded once: only the choice, and running usage, differ.
        self._head = event(response.to_object(shape.kind, [])).removesuffix(_NO_CHOICES)
        self._chunks = [shape.start(response, index) for index in range(num_choices)]
        self._has_openings = shape.opens_single or num_choices > 1
        self._begun: set[int] = set()

    def events(self, index: int, output: Output) -> bytes:
        """Return the events for an output of the choice ``index``; may be empty."""
        choices = []
        if self._has_openings and not self._begun:
            choices += [chunks.opening(output) for chunks in self._chunks]
        choices += self._choices(self._chunks[index], output, is_first=index not in self._begun)
        self._begun.add(index)
        return b"".join(self._chunk(choice) for choice in choices)

    def end(self) -> bytes:
        """Return the events after the last output: the usage if requested, and ``[DONE]``."""
        if not self._response.has_usage:
            return _DONE
        return event({**self._response.to_object(self._kind, []), "usage": self._usage.to_json()}) + _DONE

    def fail(self, error: ErnieError) -> bytes:
        """Return the events that end a stream with an error: the error, and ``[DONE]``."""
        return event(envelope(error)) + _DONE

    def _choices(self, chunks: ChoiceChunks, output: Output, *, is_first: bool) -> list[Choice]:
        # Data of the prompt, the parts of the answer and the finish reason each have a chunk of their own.
        choices = []
        prompt = chunks.prompt(output) if is_first else None
        if prompt is not None:
            choices.append(prompt)
        choices += chunks.text(output)
        if output.finish_reason is not None:
            choices.append(chunks.finish(output))
        return choices

    def _chunk(self, choice: Choice) -> bytes:
        if self._response.has_running_usage:
            end = b'],"usage":' + _json(self._usage.to_json()) + b"}\n\n"
        else:
            end = b'],"usage":null}\n\n' if self._response.has_usage else _NO_CHOICES
        return self._head + _json(choice) + end
