"""The body of ``POST /v1/completions``."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from ernie_frontend.schema.common import GenerationFields


def _is_token_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


class CompletionRequest(GenerationFields):
    """One prompt or several: a string, strings, token ids, or lists of token ids."""

    prompt: Any

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, value: object) -> object:
        if isinstance(value, str) or _is_token_ids(value):
            return value
        items = value if isinstance(value, list) else []
        if items and (all(isinstance(item, str) for item in items) or all(map(_is_token_ids, items))):
            return value
        raise ValueError(
            "it must be a string, a list of strings, a list of token ids or a list of such lists, none empty"
        )

    def prompts(self) -> list[str | tuple[int, ...]]:
        """Return the prompts one by one, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if _is_token_ids(self.prompt):
            return [tuple(self.prompt)]
        return [item if isinstance(item, str) else tuple(item) for item in self.prompt]
