"""Answers to plain completions: the object of a whole answer, and the choices of a streamed one's chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ernie_frontend.translate.openai_logprobs import CompletionLogprobs, joined, prompt_logprobs
from ernie_frontend.translate.response_context import ResponseContext, UsageCounter
from ernie_frontend.translate.sse import ChunkShape
from ernie_wire.messages import Output

OBJECT = "text_completion"


def text_completion(header: ResponseContext, answers: Sequence[Output], count: UsageCounter) -> dict[str, Any]:
    """Return the whole answers to all prompts, one choice for each."""
    choices = [_whole_choice(header, index, answer) for index, answer in enumerate(answers)]
    return {**header.to_object(OBJECT, choices), "usage": count.to_json()}


def _whole_choice(header: ResponseContext, index: int, answer: Output) -> dict[str, Any]:
    chunks = CompletionChunks(header, index)
    prompt, choice = chunks.prompt(answer), chunks.text(answer)
    choice["finish_reason"] = answer.finish_reason
    if prompt is None:
        return choice
    choice["text"] = prompt["text"] + choice["text"]
    if prompt["logprobs"] is not None:
        choice["logprobs"] = joined(prompt["logprobs"], choice["logprobs"])
    return {**prompt, **choice}


class CompletionChunks:
    """The choices of one streamed completion, chunk by chunk."""

    def __init__(self, header: ResponseContext, index: int) -> None:
        self._header = header
        self._index = index
        self._logprobs = None if header.num_logprobs is None else CompletionLogprobs(header.num_logprobs)

    def opening(self, first: Output) -> dict[str, Any]:  # noqa: ARG002
        """Return a choice without text: prompts differ, what is told of them comes with their own answers."""
        return self._choice("")

    def prompt(self, first: Output) -> dict[str, Any] | None:
        """Return the choice with what was asked of the prompt, or None if nothing was."""
        header = self._header
        if not (header.return_token_ids or header.has_echo or header.num_prompt_logprobs is not None):
            return None
        choice = self._choice((first.prompt_text or "") if header.has_echo else "")
        if header.has_echo and self._logprobs is not None:
            choice["logprobs"] = self._logprobs.echo(first)
        if header.num_prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprobs(first.prompt_logprobs or (), header.num_prompt_logprobs)
        if header.return_token_ids:
            choice["prompt_token_ids"] = None if first.prompt_ids is None else list(first.prompt_ids)
            choice["prompt_tokens"] = first.prompt_text
            choice["completion_token_ids"] = None
        return choice

    def text(self, new: Output) -> dict[str, Any]:
        """Return the choice of a chunk with new text."""
        choice = self._choice(new.text)
        if self._logprobs is not None:
            choice["logprobs"] = self._logprobs.answer(new.logprobs or ())
        if self._header.return_token_ids:
            choice["completion_token_ids"] = list(new.token_ids)
            choice["completion_tokens"] = new.text
        return choice

    def finish(self, finish_reason: str) -> dict[str, Any]:
        """Return the choice of a last chunk."""
        return self._choice("", finish_reason)

    def _choice(self, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        return {"index": self._index, "text": text, "logprobs": None, "finish_reason": finish_reason}


CHUNKS = ChunkShape(OBJECT, CompletionChunks, opens_single=False)
