"""The fields that chat and plain completions share.

Unknown fields are kept in ``model_extra``: ``unsupported`` looks there for those that may not be neglected.
Types are strict ("5" is no number): a wrong type is the client's mistake and gets 400. But an integer may be a
whole float (16.0), and a number of log probabilities true or false. Limits of sampling are checked by
``ernie_wire.sampling``. The descriptions become the tables of docs/openai.md (``tables``).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ernie_wire.checks import as_count, as_integer, as_integers

Integer = Annotated[int, BeforeValidator(as_integer)]
# Limits come before the validator, or openapi.json would not have them as JSON Schema's minimum and maximum.
PositiveInteger = Annotated[int, Field(ge=1), BeforeValidator(as_integer)]
_Priority = Annotated[int, Field(ge=-(2**31), lt=2**31), BeforeValidator(as_integer)]
TokenIds = Annotated[list[int], BeforeValidator(as_integers)]

# What metadata may not set of the common fields: their own place in the request is part of what these mean.
_NOT_FROM_METADATA = frozenset(("metadata", "model", "stream", "stream_options"))


class StreamOptions(BaseModel):
    """Options of a streamed answer; giving them at all asks for the usage, as in FastDeploy; null is false."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class GenerationFields(BaseModel):
    """What chat and completions requests have in common; None everywhere means "not given".

    Attributes:
        FROM_METADATA: the fields of a subclass that ``metadata`` may set; prompts are none of them.
    """

    model_config = ConfigDict(strict=True, extra="allow")
    FROM_METADATA: ClassVar[frozenset[str]] = frozenset()

    model: str | None = Field(None, description="name of a served model; any other goes to the default model")
    stream: bool | None = Field(None, description="send the answer as server-sent events")
    stream_options: StreamOptions | None = Field(
        None,
        description="only with stream; include_usage (true in an object without it) adds a last chunk with the "
        "usage, continuous_usage_stats the usage so far to each chunk",
    )
    max_streaming_response_tokens: PositiveInteger | None = Field(
        None, description="join so many tokens into one chunk"
    )
    n: PositiveInteger | None = Field(
        None, description="answers to each prompt; the seed of answer i is seed + i"
    )
    max_tokens: PositiveInteger | None = Field(
        None,
        description="at least 1; cut to the rest of the context; default max_new_tokens of the model's "
        "generation_config.json, else the rest of the context",
    )
    min_tokens: Integer | None = Field(
        None, description="tokens before which neither EOS nor a stop ends the answer; default 0"
    )
    temperature: float | None = Field(None, description="at least 0; below 1e-5 is greedy; default the model's")
    top_p: float | None = Field(
        None, description="nucleus mass in [0, 1]; below 1e-5 is greedy; default the model's, else 0.7"
    )
    top_k: Integer | None = Field(
        None, description="keep the k most likely tokens; 0 or -1 keeps all; default the model's"
    )
    min_p: float | None = Field(
        None,
        description="in [0, 1]: drop tokens less likely than this part of the most likely one's",
    )
    repetition_penalty: float | None = Field(
        None, description="above 0; weakens tokens of prompt and answer if above 1; default the model's"
    )
    frequency_penalty: float | None = Field(
        None, description="in [-2, 2]; taken off for each time the answer has the token; default 0"
    )
    presence_penalty: float | None = Field(
        None, description="in [-2, 2]; taken off once the answer has the token; default 0"
    )
    logit_bias: dict[str, float] | None = Field(
        None, description="token id to a number in [-100, 100] that is added to its logit"
    )
    bad_words: str | list[str] | None = Field(
        None, description="texts that are never generated, with a space before them or without"
    )
    bad_words_token_ids: TokenIds | None = Field(None, description="tokens that are never generated")
    seed: Integer | None = Field(
        None, description="in [-2^63, 2^63 - 1]; makes the answer repeatable; -1 is none"
    )
    stop: str | list[str] | None = Field(None, description="texts that end the answer, at most 16; '' is none")
    stop_token_ids: TokenIds | None = Field(None, description="tokens that end the answer")
    include_stop_str_in_output: bool | None = Field(
        None, description="the text that ended the answer is part of it"
    )
    ignore_eos: bool | None = Field(None, description="go on after the end-of-sequence token")
    skip_special_tokens: bool | None = Field(
        None, description="leave special tokens out of the text; default true"
    )
    prompt_logprobs: int | None = Field(
        None,
        ge=-1,
        description="log probabilities of the prompt's tokens with so many alternatives, at most "
        "--max-logprobs (20), in each choice's prompt_logprobs; true is 1, -1 all tokens",
    )
    return_token_ids: bool | None = Field(None, description="add token ids and raw texts of prompt and answer")
    completion_token_ids: TokenIds | None = Field(
        None, description="the beginning of the answer, to go on from; needs a prompt of token ids"
    )
    priority: _Priority | None = Field(None, description="the lower, the sooner it leaves the queue; default 0")
    cache_salt: str | None = Field(
        None,
        max_length=512,
        description="up to 512 characters; only requests with the same one, and the same API key, share the "
        "prefix cache",
    )
    user: str | None = Field(None, description="becomes part of the answer's id")
    metadata: dict[str, Any] | None = Field(
        None,
        description="fields of the request by another way; those at the top level win, and strings are only "
        "remarks (OpenAI's meaning)",
    )

    _read_prompt_logprobs = field_validator("prompt_logprobs", mode="before")(as_count)

    @model_validator(mode="before")
    @classmethod
    def _merge_metadata(cls, values: object) -> object:
        metadata = values.get("metadata") if isinstance(values, dict) else None
        if not isinstance(values, dict) or not isinstance(metadata, dict):
            return values
        added = cls.model_fields.keys() - GenerationFields.model_fields.keys()
        barred = _NOT_FROM_METADATA | (added - cls.FROM_METADATA)
        given = {
            name: value
            for name, value in metadata.items()
            if not isinstance(value, str) and name not in barred and values.get(name) is None
        }
        return {**values, **given}

    @field_validator("metadata")
    @classmethod
    def _check_metadata(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and "raw_request" in value:
            raise ValueError("it may not hold raw_request; leave that out")
        return value

    @field_validator("stop", "bad_words", mode="before")
    @classmethod
    def _check_texts(cls, value: object) -> object:
        texts = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(text, str) for text in texts):
            raise ValueError("it must be a string or a list of strings")
        return value

    @field_validator("stream_options")
    @classmethod
    def _check_stream_options(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if value is not None and value.model_fields_set and not info.data.get("stream"):
            raise ValueError("it may only be given with stream true")
        return value

    @property
    def num_candidates(self) -> int:
        """How many answers are made to each prompt."""
        return self.n or 1

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives for each token of the answer; None if log probabilities were not asked for."""
        return None

    @property
    def has_echo(self) -> bool:
        """Whether the answer begins with the prompt."""
        return False

    @property
    def num_prompt_ids(self) -> int:
        """Token ids of the longest prompt; 0 if all are texts."""
        return 0

    @property
    def num_prompt_bytes(self) -> int:
        """Bytes of the longest text that is a prompt as it stands: a template may leave out a part."""
        return 0
