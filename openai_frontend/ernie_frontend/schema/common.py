"""The fields that chat and plain completions share, and the reading of a request body.

Unknown fields are kept in ``model_extra``: ``unsupported`` looks there for those that may not be neglected.
Types are strict ("5" is no number): a wrong type is the client's mistake and gets 400.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from starlette.requests import Request

from ernie_frontend.errors import from_validation


class StreamOptions(BaseModel):
    """Options of a streamed answer; giving them at all asks for the usage, as in FastDeploy."""

    model_config = ConfigDict(strict=True)

    include_usage: bool = True
    continuous_usage_stats: bool = False


class GenerationFields(BaseModel):
    """What chat and completions requests have in common; None everywhere means "not given"."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None
    user: str | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _check_stop(cls, value: object) -> object:
        texts = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(text, str) for text in texts):
            raise ValueError("it must be a string or a list of strings")
        return value

    @field_validator("stream_options")
    @classmethod
    def _check_stream_options(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise ValueError("it may only be given with stream true")
        return value


Body = TypeVar("Body", bound=BaseModel)


async def read_body(kind: type[Body], request: Request) -> Body:
    """Return the checked body of a request, whatever content type it announces.

    Raises:
        ErnieError: the body is not JSON, not an object, or a field is missing or of a wrong type.
    """
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        raise from_validation(error) from None
