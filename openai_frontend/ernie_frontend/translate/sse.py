"""A stream of deltas as server-sent events, in FastDeploy's order.

    opening chunks of all choices, text chunks, finish chunk (for each choice), usage chunk if asked for, [DONE]

Choices open in the order of their index, before any text: official clients put an answer together by place.
An error after the first event is an event of its own, and ``[DONE]`` still follows. What a chunk looks like is
decided by ``chat_response`` and ``completion_response``; this module must not know.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from ernie_frontend.errors import envelope
from ernie_frontend.generation import Delta
from ernie_frontend.translate import chat_response, completion_response
from ernie_frontend.translate.answer import AnswerHeader, UsageCount
from ernie_wire.errors import ErnieError, InternalError

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
Choice = dict[str, Any]


class ChoiceChunks(Protocol):
    """The choices of one generation, chunk by chunk."""

    def opening(self, first: Delta) -> Choice:
        """Return the choice before the first text of all; ``first`` is the first delta of any choice."""

    def prompt(self, first: Delta) -> Choice | None:
        """Return the choice with what was asked of its prompt, or None; ``first`` is its first delta."""

    def text(self, new: Delta) -> Choice:
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
    start: Callable[[AnswerHeader, int], ChoiceChunks]
    opens_single: bool


CHAT = ChunkShape(chat_response.CHUNK, chat_response.ChatChunks, opens_single=True)
COMPLETION = ChunkShape(completion_response.OBJECT, completion_response.CompletionChunks, opens_single=False)


def event(content: dict[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def events(
    header: AnswerHeader,
    shape: ChunkShape,
    deltas: AsyncGenerator[tuple[int, Delta], None],
    num_choices: int,
    count: UsageCount,
    on_error: Callable[[ErnieError], None],
) -> AsyncGenerator[bytes, None]:
    """Yield the events of a streamed answer.

    Args:
        header: what every chunk carries.
        shape: how the chunks of the endpoint look.
        deltas: ``(index of the choice, delta)``; closed when this generator is.
        num_choices: of the answer.
        count: counts the tokens; the caller may read it afterwards.
        on_error: is told the error that ends the answer, before its event.
    """
    async with aclosing(deltas):
        try:
            async for chunk in _chunks(header, shape, deltas, num_choices, count):
                yield event(chunk)
        except Exception as error:
            if not isinstance(error, ErnieError):
                logger.exception("the stream of %s failed", header.answer_id)
                error = InternalError("something went wrong on our side")
            on_error(error)
            yield event(envelope(error))
    yield DONE


async def _chunks(
    header: AnswerHeader,
    shape: ChunkShape,
    deltas: AsyncIterator[tuple[int, Delta]],
    num_choices: int,
    count: UsageCount,
) -> AsyncIterator[dict[str, Any]]:
    chunks = [shape.start(header, index) for index in range(num_choices)]
    has_openings = shape.opens_single or num_choices > 1
    begun: set[int] = set()
    async for index, delta in deltas:
        count.add(index, delta)
        choices = [each.opening(delta) for each in chunks] if has_openings and not begun else []
        choices += _choices(header, chunks[index], delta, is_first=index not in begun)
        begun.add(index)
        for choice in choices:
            chunk = header.to_object(shape.kind, [choice])
            if header.has_running_usage:
                chunk["usage"] = count.to_json()
            elif header.has_usage:
                chunk["usage"] = None
            yield chunk
    if header.has_usage:
        yield {**header.to_object(shape.kind, []), "usage": count.to_json()}


def _choices(header: AnswerHeader, chunks: ChoiceChunks, delta: Delta, *, is_first: bool) -> list[Choice]:
    choices = []
    prompt = chunks.prompt(delta) if is_first else None
    if prompt is not None:
        choices.append(prompt)
    has_tokens = bool(header.has_token_ids and delta.token_ids)
    has_logprobs = bool(header.num_logprobs is not None and delta.logprobs)
    if delta.text or has_tokens or has_logprobs:
        choices.append(chunks.text(delta))
    if delta.finish_reason is not None:
        choices.append(chunks.finish(delta.finish_reason))
    return choices
