"""Completion responses: the object of a whole answer, and the choices of a stream's chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ernie_frontend.translate.openai_logprobs import CompletionLogprobs, joined, prompt_logprobs
from ernie_frontend.translate.response_context import ResponseContext, UsageCounter, end_of_choice
from ernie_frontend.translate.sse import ChunkShape
from ernie_wire.messages import Output

OBJECT = "text_completion"


def text_completion(
    response: ResponseContext, answers: Sequence[Output], usage: UsageCounter
) -> dict[str, Any]:
    """Return the whole answers to all prompts, one choice for each."""
    choices = [_whole_choice(response, index, answer) for index, answer in enumerate(answers)]
    return {**response.to_object(OBJECT, choices), "usage": usage.to_json()}


def _whole_choice(response: ResponseContext, index: int, answer: Output) -> dict[str, Any]:
    chunks = CompletionChunks(response, index)
    prompt, choice = chunks.prompt(answer), chunks.answer(answer)
    choice |= end_of_choice(answer)
    if prompt is None:
        return choice
    choice["text"] = prompt["text"] + choice["text"]
    if prompt["logprobs"] is not None:
        choice["logprobs"] = joined(prompt["logprobs"], choice["logprobs"])
    return {**prompt, **choice}


class CompletionChunks:
    """The choices of one streamed completion, chunk by chunk."""

    def __init__(self, response: ResponseContext, index: int) -> None:
        self._response = response
        self._index = index
        self._logprobs = None if response.num_logprobs is None else CompletionLogprobs(response.num_logprobs)

    def opening(self, first: Output) -> dict[str, Any]:  # noqa: ARG002
        """Return a choice without text: prompts differ, and their data goes with their own answers."""
        return self._choice("")

    def prompt(self, first: Output) -> dict[str, Any] | None:
        """Return the choice with the requested data of the prompt, or None if none was requested."""
        response = self._response
        if not (response.return_token_ids or response.has_echo or response.num_prompt_logprobs is not None):
            return None
        choice = self._choice((first.prompt_text or "") if response.has_echo else "")
        if response.has_echo and self._logprobs is not None:
            choice["logprobs"] = self._logprobs.echo(first)
        if response.num_prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprobs(
                first.prompt_logprobs or (), response.num_prompt_logprobs
            )
        if response.return_token_ids:
            choice["prompt_token_ids"] = None if first.prompt_ids is None else list(first.prompt_ids)
            choice["prompt_tokens"] = first.prompt_text
            choice["completion_token_ids"] = None
        return choice

    def text(self, new: Output) -> list[dict[str, Any]]:
        """Return the choices with what an output adds to the answer: one, or none."""
        return [self.answer(new)] if new.text or self._response.has_token_data(new) else []

    def answer(self, new: Output) -> dict[str, Any]:
        """Return the choice with new text."""
        choice = self._choice(new.text)
        if self._logprobs is not None:
            choice["logprobs"] = self._logprobs.answer(new.logprobs or ())
        if self._response.return_token_ids:
            choice["completion_token_ids"] = list(new.token_ids)
            choice["completion_tokens"] = new.text
        return choice

    def finish(self, last: Output) -> dict[str, Any]:
        """Return the choice of a last chunk."""
        return {**self._choice(""), **end_of_choice(last)}

    def _choice(self, text: str) -> dict[str, Any]:
        return {"index": self._index, "text": text, "logprobs": None, "finish_reason": None}


CHUNKS = ChunkShape(OBJECT, CompletionChunks, opens_single=False)
