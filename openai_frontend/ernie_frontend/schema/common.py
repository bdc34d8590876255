"""The fields that chat and plain completions share.

Unknown fields are kept in ``model_extra``, where ``unsupported`` looks for those that must not be ignored.
Types are strict ("5" is not a number): a wrong type gets 400. But an integer may be a whole float (16.0), and a
number of log probabilities true or false. Sampling limits are checked by ``ernie_wire.sampling``. The
descriptions become the tables of docs/openai.md (``tables``).
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

from ernie_frontend.schema.structured_outputs import StructuredOutputFields
from ernie_wire.checks import as_count, as_integer, as_integers

Integer = Annotated[int, BeforeValidator(as_integer)]
# The limits must come before the validator, or openapi.json lacks them as JSON Schema's minimum and maximum.
PositiveInteger = Annotated[int, Field(ge=1), BeforeValidator(as_integer)]
_Priority = Annotated[int, Field(ge=-(2**31), lt=2**31), BeforeValidator(as_integer)]
TokenIds = Annotated[list[int], BeforeValidator(as_integers)]

# Common fields that metadata may not set: their place in the request is part of their meaning.
_NOT_FROM_METADATA = frozenset(("metadata", "model", "stream", "stream_options"))


class StreamOptions(BaseModel):
    """Options of a stream; even an empty object requests the usage, as in FastDeploy; null is false."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class LogitsProcessorsArgs(BaseModel):
    """Arguments of FastDeploy's logits processors, of which one is known here."""

    model_config = ConfigDict(strict=True)

    thinking_budget: PositiveInteger | None = None


class GenerationFields(StructuredOutputFields):
    """The fields that chat and completions requests share; None means "not given".

    Attributes:
        FROM_METADATA: the fields of a subclass that ``metadata`` may set; never prompts.
    """

    model_config = ConfigDict(strict=True, extra="allow")
    FROM_METADATA: ClassVar[frozenset[str]] = frozenset()

    model: str | None = Field(None, description="name of a served model; any other goes to the default model")
    stream: bool | None = Field(None, description="send the answer as server-sent events")
    stream_options: StreamOptions | None = Field(
        None,
        description="only with stream; include_usage (true if missing in the object) adds a last chunk with "
        "the usage, continuous_usage_stats the usage so far to each chunk",
    )
    max_streaming_response_tokens: PositiveInteger | None = Field(
        None, description="join this many tokens into one chunk"
    )
    n: PositiveInteger | None = Field(
        None, description="answers to each prompt; the seed of answer i is seed + i"
    )
    max_tokens: PositiveInteger | None = Field(
        None,
        description="at least 1, in completions 0: only the prompt is processed; cut to the rest of the "
        "context; default max_new_tokens of the model's generation_config.json, else the rest of the context",
    )
    min_tokens: Integer | None = Field(
        None, description="fewest tokens before EOS or a stop may end the answer; default 0"
    )
    reasoning_max_tokens: PositiveInteger | None = Field(
        None, description="maximum number of tokens of thinking, at least 1; then thinking is closed"
    )
    response_max_tokens: PositiveInteger | None = Field(
        None, description="maximum number of tokens after thinking, at least 1"
    )
    logits_processors_args: LogitsProcessorsArgs | None = Field(
        None, description="may hold thinking_budget, FastDeploy's other name of reasoning_max_tokens"
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
        description="in [0, 1]: drop tokens less likely than this fraction of the most likely one's",
    )
    repetition_penalty: float | None = Field(
        None, description="above 0; above 1 weakens tokens of prompt and answer; default the model's"
    )
    frequency_penalty: float | None = Field(
        None, description="in [-2, 2]; subtracted for each occurrence of the token in the answer; default 0"
    )
    presence_penalty: float | None = Field(
        None, description="in [-2, 2]; subtracted once if the token occurs in the answer; default 0"
    )
    logit_bias: dict[str, float] | None = Field(
        None, description="token id to a number in [-100, 100], which is added to its logit"
    )
    allowed_token_ids: TokenIds | None = Field(
        None, description="only these tokens may be generated, at least one; EOS only if it is one of them"
    )
    bad_words: str | list[str] | None = Field(
        None, description="texts that are never generated, with or without a space before them"
    )
    bad_words_token_ids: TokenIds | None = Field(None, description="tokens that are never generated")
    seed: Integer | None = Field(
        None, description="in [-2^63, 2^63 - 1]; makes the answer reproducible; -1: no seed"
    )
    stop: str | list[str] | None = Field(None, description="texts that end the answer, at most 16; '' is none")
    stop_token_ids: TokenIds | None = Field(None, description="tokens that end the answer")
    include_stop_str_in_output: bool | None = Field(None, description="keep the text that ended the answer")
    ignore_eos: bool | None = Field(None, description="continue after the end-of-sequence token")
    skip_special_tokens: bool | None = Field(
        None, description="leave special tokens out of the text; default true"
    )
    prompt_logprobs: int | None = Field(
        None,
        ge=-1,
        description="log probabilities of the prompt's tokens with this many alternatives, at most "
        "--max-logprobs (20), in each choice's prompt_logprobs; true is 1, -1 all tokens",
    )
    truncate_prompt_tokens: Integer | None = Field(
        None,
        description="keep only the last tokens of the prompt, this many; -1: as many as the context has room "
        "for next to max_tokens, or next to its default but at least half of the context",
    )
    repetition_detection: dict[str, Any] | None = Field(
        None,
        description="end an answer that repeats a pattern of tokens: an object of max_pattern_size (at most "
        "1024; 0: off), min_pattern_size (1), min_count (at least 2) and min_repeated_tokens (0); "
        "default off, but for PaddleOCR-VL 512, 1, 8, 2048",
    )
    return_token_ids: bool | None = Field(None, description="add token ids and raw texts of prompt and answer")
    completion_token_ids: TokenIds | None = Field(
        None, description="the beginning of the answer, to be continued; needs a prompt of token ids"
    )
    priority: _Priority | None = Field(None, description="lower values leave the queue earlier; default 0")
    cache_salt: str | None = Field(
        None,
        max_length=512,
        description="up to 512 characters; only requests with the same salt and the same API key share the "
        "prefix cache",
    )
    user: str | None = Field(None, description="becomes part of the answer's id")
    metadata: dict[str, Any] | None = Field(
        None,
        description="may hold fields of the request; those at the top level take precedence, and strings are "
        "ignored (OpenAI's meaning)",
    )

    _read_prompt_logprobs = field_validator("prompt_logprobs", mode="before")(as_count)

    @field_validator("logits_processors_args", mode="before")
    @classmethod
    def _check_logits_processors(cls, value: object) -> object:
        unknown = [name for name, each in value.items() if each is not None] if isinstance(value, dict) else []
        if unknown not in ([], ["thinking_budget"]):
            raise ValueError("it may hold only thinking_budget; for other changes of logits use logit_bias")
        return value

    @model_validator(mode="before")
    @classmethod
    def _merge_metadata(cls, values: object) -> object:
        metadata = values.get("metadata") if isinstance(values, dict) else None
        if not isinstance(values, dict) or not isinstance(metadata, dict):
            return values
        added = cls.model_fields.keys() - GenerationFields.model_fields.keys()
        barred = _NOT_FROM_METADATA | (added - cls.FROM_METADATA)
        fields = {
            name: value
            for name, value in metadata.items()
            if not isinstance(value, str) and name not in barred and values.get(name) is None
        }
        return {**values, **fields}

    @field_validator("metadata")
    @classmethod
    def _check_metadata(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and "raw_request" in value:
            raise ValueError("it may not have raw_request; leave that out")
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
            raise ValueError("it needs stream true")
        return value

    @property
    def reasoning_limit(self) -> int | None:
        """Maximum number of tokens of thinking, in whichever field the request gives it."""
        arguments = self.logits_processors_args
        return self.reasoning_max_tokens or (arguments.thinking_budget if arguments is not None else None)

    def take_media_urls(self) -> dict[str, str]:
        """Return the URLs of images and videos by their places in the request, and forget them."""
        return {}

    @property
    def num_candidates(self) -> int:
        """Number of generations of each prompt."""
        return self.n or 1

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives for each token of the answer; None: no log probabilities."""
        return None

    @property
    def has_echo(self) -> bool:
        """Whether the answer begins with the prompt."""
        return False

    @property
    def num_prompt_ids(self) -> int:
        """Number of token ids of the longest prompt; 0 if all are texts."""
        return 0

    @property
    def num_prompt_bytes(self) -> int:
        """Bytes of the longest raw text prompt; 0 for conversations, of which a template may drop parts."""
        return 0
