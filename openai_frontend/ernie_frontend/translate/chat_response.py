"""Chat responses: the object of a whole answer, and the choices of a stream's chunks.

The shape is FastDeploy's: nulls are written out, every delta carries ``content`` and ``reasoning_content``, and
only the opening chunk, which has no text, carries ``role`` (clients skip the text of chunks with a role).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ernie_frontend.translate.openai_logprobs import chat_logprobs, prompt_logprobs
from ernie_frontend.translate.response_context import ResponseContext, UsageCounter
from ernie_frontend.translate.sse import ChunkShape
from ernie_wire.messages import Output


def chat_completion(
    response: ResponseContext, answers: Sequence[Output], usage: UsageCounter
) -> dict[str, Any]:
    """Return the whole answers, one choice for each."""
    choices = [_whole_choice(response, index, answer) for index, answer in enumerate(answers)]
    return {**response.to_object("chat.completion", choices), "usage": usage.to_json()}


def _whole_choice(response: ResponseContext, index: int, answer: Output) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.text,
        "multimodal_content": None,
        "reasoning_content": None,
        "tool_calls": None,
        "prompt_token_ids": _listed(answer.prompt_ids),
        "completion_token_ids": list(answer.token_ids) if response.return_token_ids else None,
        "prompt_tokens": answer.prompt_text,
        "completion_tokens": answer.text if response.return_token_ids else None,
    }
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(response, answer),
        **_prompt_logprobs(response, answer),
        "finish_reason": answer.finish_reason,
    }


class ChatChunks:
    """The choices of one streamed chat answer, chunk by chunk."""

    def __init__(self, response: ResponseContext, index: int) -> None:
        self._response = response
        self._index = index

    def opening(self, first: Output) -> dict[str, Any]:
        """Return the choice of the first chunk: the role, and the prompt's data, which all choices share."""
        delta: dict[str, Any] = {
            "role": "assistant",
            "content": "",
            "reasoning_content": "",
            "tool_calls": None,
            "prompt_token_ids": _listed(first.prompt_ids),
            "completion_token_ids": None,
        }
        if self._response.return_token_ids:
            delta["prompt_tokens"] = first.prompt_text
        return {**self._choice(delta), **_prompt_logprobs(self._response, first)}

    def prompt(self, first: Output) -> None:
        """Return None: the opening has the data of the prompt."""

    def text(self, new: Output) -> dict[str, Any]:
        """Return the choice of a chunk with new text."""
        delta: dict[str, Any] = {"content": new.text, "reasoning_content": None}
        if self._response.return_token_ids:
            delta["completion_token_ids"] = list(new.token_ids)
            delta["completion_tokens"] = new.text
        return {**self._choice(delta), "logprobs": _logprobs(self._response, new)}

    def finish(self, finish_reason: str) -> dict[str, Any]:
        """Return the choice of the last chunk."""
        return self._choice({"content": "", "reasoning_content": None}, finish_reason)

    def _choice(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _logprobs(response: ResponseContext, new: Output) -> dict[str, Any] | None:
    return None if response.num_logprobs is None else chat_logprobs(new.logprobs or (), response.num_logprobs)


def _prompt_logprobs(response: ResponseContext, first: Output) -> dict[str, Any]:
    if response.num_prompt_logprobs is None:
        return {}
    return {"prompt_logprobs": prompt_logprobs(first.prompt_logprobs or (), response.num_prompt_logprobs)}


def _listed(token_ids: tuple[int, ...] | None) -> list[int] | None:
    return None if token_ids is None else list(token_ids)


CHUNKS = ChunkShape("chat.completion.chunk", ChatChunks, opens_single=True)
