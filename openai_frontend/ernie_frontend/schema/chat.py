"""The body of ``POST /v1/chat/completions``."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from ernie_frontend.schema.common import GenerationFields, PositiveInteger, TokenIds
from ernie_frontend.schema.content_parts import CONTENT_SCHEMA, MEDIA_TYPES, check_part, media_part
from ernie_wire.checks import as_count, as_integers
from ernie_wire.conversation import ToolRequest
from ernie_wire.errors import InvalidValue
from ernie_wire.messages import MAX_MEDIA

Request = TypeVar("Request", bound="ChatRequest")

_NAME = {"type": "string", "minLength": 1}


def _function(**properties: object) -> dict[str, Any]:
    """Return the schema of an object of OpenAI's form ``{"type": "function", "function": {"name", ...}}``."""
    function = {"type": "object", "properties": {"name": _NAME, **properties}, "required": ["name"]}
    fields = {"type": {"const": "function"}, "function": function}
    return {"type": "object", "properties": fields, "required": ["function"]}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_TOOLS = {
    "type": "array",
    "items": _function(
        description=_or_null({"type": "string"}),
        parameters=_or_null({"type": "object"}),
        strict=_or_null({"type": "boolean"}),
    ),
}
_EFFORTS = {"minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8, "xhigh": 0.95}
"""Shares of thinking in max_tokens; 0.8 is also FastDeploy's default for models that see."""
_ALLOWED_TOOLS = {
    "type": "object",
    "properties": {"mode": {"enum": ["auto", "required"]}, "tools": {"type": "array", "items": _function()}},
    "required": ["mode", "tools"],
}
_TOOL_CHOICES = [
    {"enum": ["none", "auto", "required"]},
    _function(),
    {
        "type": "object",
        "properties": {"type": {"const": "allowed_tools"}, "allowed_tools": _ALLOWED_TOOLS},
        "required": ["type", "allowed_tools"],
    },
    {"type": "null"},
]
_TOOL_CALLS = {
    "type": "array",
    "items": _function(arguments={"anyOf": [{"type": "string"}, {"type": "object"}, {"type": "null"}]}),
}


class ChatMessage(BaseModel):
    """One message of a conversation.

    ``content`` is a string, a part, a list of parts, or missing (not in a user's message); a part is a text, an
    image or a video. ``arguments`` of a tool call are a JSON object or its text. ``bot`` is FastDeploy's alias
    of ``assistant``; ``reasoning`` and ``thoughts`` are other names of ``reasoning_content``.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "bot", "tool"]
    content: Annotated[Any, WithJsonSchema(CONTENT_SCHEMA)] = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thoughts: str | None = None
    tool_calls: Annotated[list[dict[str, Any]] | None, WithJsonSchema(_or_null(_TOOL_CALLS))] = None
    tool_call_id: str | None = None

    @field_validator("content")
    @classmethod
    def _check_content(cls, value: object) -> object:
        if value is None or isinstance(value, str):
            return value
        for part in value if isinstance(value, list) else [value]:
            check_part(part)
        return value


class Thinking(BaseModel):
    """How DeepSeek's, Volcano's and Anthropic's APIs switch and limit thinking."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["enabled", "disabled", "auto", "adaptive"] = "auto"
    budget_tokens: PositiveInteger | None = None


class ChatRequest(GenerationFields):
    """A conversation to continue."""

    FROM_METADATA: ClassVar[frozenset[str]] = frozenset(
        (
            *("prompt_token_ids", "max_completion_tokens", "logprobs", "top_logprobs", "tools", "tool_choice"),
            *(
                "parallel_tool_calls",
                "mm_processor_kwargs",
                "chat_template_kwargs",
                "reasoning_effort",
                "thinking",
                "disable_chat_template",
                "add_generation_prompt",
                "continue_final_message",
            ),
        )
    )

    messages: list[ChatMessage] | None = Field(
        None, description="the conversation; a list of integers stands for prompt_token_ids"
    )
    prompt_token_ids: TokenIds | None = Field(
        None, min_length=1, description="the whole prompt as token ids, instead of messages and template"
    )
    max_completion_tokens: PositiveInteger | None = Field(
        None, description="like max_tokens, and has precedence"
    )
    logprobs: bool | None = Field(None, description="return the log probability of each token")
    top_logprobs: int | None = Field(
        None,
        ge=-1,
        description="how many of the most likely tokens to add, at most --max-logprobs (20); needs logprobs; "
        "-1: all tokens",
    )
    tools: Annotated[list[dict[str, Any]] | None, WithJsonSchema(_or_null(_TOOLS))] = Field(
        None, description="functions that the answer may call"
    )
    tool_choice: Annotated[Any, WithJsonSchema({"anyOf": _TOOL_CHOICES})] = Field(
        None,
        description="auto (the default with tools), none, required, or the function to call",
    )
    parallel_tool_calls: bool | None = Field(
        None, description="whether an answer may have several calls; default true"
    )
    mm_processor_kwargs: dict[str, Any] | None = Field(
        None,
        description="how images and videos are prepared: min_pixels, max_pixels, fps, ...; options of a part "
        "win over it",
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="variables of the template, e.g. enable_thinking"
    )
    enable_thinking: bool | None = Field(
        None, description="alias of chat_template_kwargs.enable_thinking, which takes precedence"
    )
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        None,
        description="none: no thinking, where the model can; the others limit it to 10, 20, 50, 80 or 95 % of "
        "max_tokens, if that is given",
    )
    thinking: Thinking | None = Field(
        None,
        description="type enabled, disabled or auto (the default), and budget_tokens: other servers' names of "
        "enable_thinking and reasoning_max_tokens",
    )
    add_generation_prompt: bool | None = Field(
        None,
        description="end the prompt with the beginning of an answer; default true, but false with "
        "continue_final_message",
    )
    continue_final_message: bool | None = Field(
        None,
        description="end the prompt with the content of the final message, which the answer continues; not "
        "together with add_generation_prompt true",
    )
    disable_chat_template: bool | None = Field(
        None, description="use the first message's content as the raw prompt"
    )

    _media_urls: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _take_token_ids(cls, values: object) -> object:
        """Accept FastDeploy's alternative to ``prompt_token_ids``: messages as a list of integers."""
        messages = as_integers(values.get("messages")) if isinstance(values, dict) else None
        if not isinstance(values, dict) or not isinstance(messages, list) or not messages:
            return values
        if not all(type(item) is int for item in messages):
            return values
        return {"prompt_token_ids": messages, **values, "messages": None}

    _read_top_logprobs = field_validator("top_logprobs", mode="before")(as_count)

    @field_validator("top_logprobs")
    @classmethod
    def _check_top_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise ValueError("it needs logprobs true")
        return value

    @model_validator(mode="after")
    def _move_media_urls(self: Request) -> Request:
        """Bring parts of media into one form, in which they refer to the URLs of the request by index."""
        for index, message in enumerate(self.messages or ()):
            where, content = f"messages[{index}].content", message.content
            if isinstance(content, dict):
                message.content = self._without_url(where, content)
            elif isinstance(content, list):
                message.content = [
                    self._without_url(f"{where}[{place}]", part) for place, part in enumerate(content)
                ]
        return self

    def _without_url(self, where: str, part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] not in MEDIA_TYPES:
            return part
        moved, url = media_part(where, part)
        if len(self._media_urls) == MAX_MEDIA:
            raise InvalidValue(f"{where}: there are more than {MAX_MEDIA} images and videos", "messages")
        moved[moved["type"]]["media"] = len(self._media_urls)
        self._media_urls[where] = url
        return moved

    def take_media_urls(self) -> dict[str, str]:
        """Return the URLs of images and videos by their places in the request, and forget them."""
        urls, self._media_urls = self._media_urls, {}
        return urls

    @cached_property
    def tool_request(self) -> ToolRequest | None:
        """Which functions the answer may call; None: none.

        Raises:
            InvalidRequest: tools, tool_choice or parallel_tool_calls are wrong.
        """
        return ToolRequest.from_json(dict(self))

    @property
    def reasoning_limit(self) -> int | None:
        """Maximum number of tokens of thinking, also as a share of ``max_tokens``."""
        max_tokens = self.max_completion_tokens or self.max_tokens
        limit = super().reasoning_limit or (self.thinking.budget_tokens if self.thinking is not None else None)
        share = _EFFORTS.get(self.reasoning_effort or "")
        if limit is not None or max_tokens is None or share is None:
            return limit
        return max(1, int(share * max_tokens))

    @property
    def num_prompt_ids(self) -> int:
        """Number of token ids of the prompt; 0 if it is text."""
        return len(self.prompt_token_ids or ()) + len(self.completion_token_ids or ())

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives for each token of the answer; None: no log probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None
