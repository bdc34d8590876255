"""Answers to plain completions: the one object of a whole answer, and the choices of a streamed one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ernie_frontend.generation import Delta
from ernie_frontend.translate.answer import AnswerHeader

OBJECT = "text_completion"


def text_completion(header: AnswerHeader, answers: Sequence[Delta], usage: dict[str, Any]) -> dict[str, Any]:
    """Return the whole answers to all prompts, one choice for each."""
    choices = []
    for index, answer in enumerate(answers):
        choice = text_choice(header, index, answer, answer.finish_reason)
        if header.has_token_ids:
            choice |= _prompt_fields(answer)
        choices.append(choice)
    return {**header.to_object(OBJECT, choices), "usage": usage}


def opening_choice(header: AnswerHeader, index: int, first: Delta) -> dict[str, Any] | None:
    """Return the choice of a first chunk with the prompt's ids, or None if they were not asked for."""
    if not header.has_token_ids:
        return None
    return {**_choice(index, ""), **_prompt_fields(first), "completion_token_ids": None}


def text_choice(
    header: AnswerHeader, index: int, new: Delta, finish_reason: str | None = None
) -> dict[str, Any]:
    """Return the choice of a chunk with new text."""
    choice = _choice(index, new.text, finish_reason)
    if header.has_token_ids:
        choice["completion_token_ids"] = list(new.token_ids)
        choice["completion_tokens"] = new.text
    return choice


def finish_choice(index: int, finish_reason: str) -> dict[str, Any]:
    """Return the choice of a last chunk."""
    return _choice(index, "", finish_reason)


def _choice(index: int, text: str, finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _prompt_fields(first: Delta) -> dict[str, Any]:
    return {
        "prompt_token_ids": None if first.prompt_ids is None else list(first.prompt_ids),
        "prompt_tokens": first.prompt_text,
    }
