"""Chat answers: the one object of a whole answer, and the chunks of a streamed one.

The shape is FastDeploy's: nulls are written out, every delta carries ``content`` and ``reasoning_content``, and
only the opening chunk, which has no text, carries ``role`` (clients skip the text of chunks with a role).
"""

from __future__ import annotations

from typing import Any

from ernie_frontend.generation import Delta
from ernie_frontend.translate.answer import AnswerHeader

CHUNK = "chat.completion.chunk"


def chat_completion(header: AnswerHeader, answer: Delta, usage: dict[str, Any]) -> dict[str, Any]:
    """Return a whole answer."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.text,
        "multimodal_content": None,
        "reasoning_content": None,
        "tool_calls": None,
        "prompt_token_ids": _listed(answer.prompt_ids),
        "completion_token_ids": list(answer.token_ids) if header.has_token_ids else None,
        "prompt_tokens": answer.prompt_text,
        "completion_tokens": answer.text if header.has_token_ids else None,
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
    return {**header.to_object("chat.completion", [choice]), "usage": usage}


def opening_choice(header: AnswerHeader, index: int, first: Delta) -> dict[str, Any]:
    """Return the choice of the first chunk: the role, and the prompt's ids if asked for."""
    delta: dict[str, Any] = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "",
        "tool_calls": None,
        "prompt_token_ids": _listed(first.prompt_ids),
        "completion_token_ids": None,
    }
    if header.has_token_ids:
        delta["prompt_tokens"] = first.prompt_text
    return _choice(index, delta)


def text_choice(header: AnswerHeader, index: int, new: Delta) -> dict[str, Any]:
    """Return the choice of a chunk with new text."""
    delta: dict[str, Any] = {"content": new.text, "reasoning_content": None}
    if header.has_token_ids:
        delta["completion_token_ids"] = list(new.token_ids)
        delta["completion_tokens"] = new.text
    return _choice(index, delta)


def finish_choice(index: int, finish_reason: str) -> dict[str, Any]:
    """Return the choice of the last chunk."""
    return _choice(index, {"content": "", "reasoning_content": None}, finish_reason)


def _choice(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _listed(token_ids: tuple[int, ...] | None) -> list[int] | None:
    return None if token_ids is None else list(token_ids)
