"""The body of ``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ernie_frontend.schema.common import GenerationFields

_PART_WANTED = 'it must be a string or a list of parts such as {"type": "text", "text": "..."}'


class ChatMessage(BaseModel):
    """One message of a conversation.

    ``content`` is a string, a text part, a list of text parts, or nothing; ``arguments`` of a tool call may
    be a JSON object or its text. ``bot`` is FastDeploy's other name of ``assistant``.
    """

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant", "bot", "tool"]
    content: Any = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    @field_validator("content")
    @classmethod
    def _check_content(cls, value: object) -> object:
        if value is None or isinstance(value, str):
            return value
        for part in value if isinstance(value, list) else [value]:
            _check_part(part)
        return value


class ChatRequest(GenerationFields):
    """A conversation to continue."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    metadata: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None

    @field_validator("tool_choice")
    @classmethod
    def _check_tool_choice(cls, value: object) -> object:
        if value in (None, "none", "auto"):
            return value
        raise ValueError("a required or named tool is not supported yet; use none or auto")


def _check_part(part: object) -> None:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise ValueError(_PART_WANTED)  # noqa: TRY004  pydantic reports no other
    if part["type"] != "text":
        raise ValueError(f"a part of type {part['type'][:40]!r} is not supported yet; send text parts only")
    if not isinstance(part.get("text"), str):
        raise ValueError("a text part needs text, a string")  # noqa: TRY004  as above
