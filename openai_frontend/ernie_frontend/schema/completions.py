"""The body of ``POST /v1/completions``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from ernie_frontend.schema.common import GenerationFields, PositiveInteger
from ernie_wire.checks import as_count, as_integer, as_integers

_TEXTS = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
_LIST_OF_INTEGERS = {"type": "array", "items": {"type": "integer"}}
_TOKEN_IDS = [_LIST_OF_INTEGERS, {"type": "array", "items": _LIST_OF_INTEGERS}]


def _is_token_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _with_integers(prompt: object) -> object:
    """Return token ids, or lists of them, with whole floats as integers."""
    if isinstance(prompt, list) and all(isinstance(item, list) for item in prompt):
        return [as_integers(item) for item in prompt]
    return as_integers(prompt)


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]  # null, which is refused: the field may only be left out


class CompletionRequest(GenerationFields):
    """One prompt or several: a string, strings, token ids, or lists of token ids."""

    FROM_METADATA: ClassVar[frozenset[str]] = frozenset(("prompt_token_ids", "echo", "best_of", "logprobs"))

    max_tokens: Annotated[int, Field(ge=0), BeforeValidator(as_integer)] | None = Field(
        None,
        description=GenerationFields.model_fields["max_tokens"].description,
    )
    prompt: Annotated[Any, WithJsonSchema({"anyOf": [*_TEXTS, *_TOKEN_IDS]})] = Field(
        None,
        description="a text, texts, token ids, or lists of token ids",
        json_schema_extra=_without_default,
    )
    prompt_token_ids: Annotated[Any, WithJsonSchema({"anyOf": [*_TOKEN_IDS, {"type": "null"}]})] = Field(
        None, description="token ids or lists of them, instead of prompt"
    )
    echo: bool | None = Field(
        None,
        description="begin with the prompt (with logprobs also its own); with max_tokens 0 return nothing else",
    )
    best_of: PositiveInteger | None = Field(
        None, description="generate this many answers to each prompt and return the n most likely per token"
    )
    logprobs: int | None = Field(
        None,
        ge=-1,
        description="log probabilities with this many of the most likely tokens, at most --max-logprobs (20); "
        "true is 1, -1 all tokens",
    )

    _read_logprobs = field_validator("logprobs", mode="before")(as_count)
    _read_prompts = field_validator("prompt", "prompt_token_ids", mode="before")(_with_integers)

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

    @field_validator("prompt_token_ids")
    @classmethod
    def _check_prompt_token_ids(cls, value: object) -> object:
        is_many = isinstance(value, list) and bool(value) and all(map(_is_token_ids, value))
        if value is None or _is_token_ids(value) or is_many:
            return value
        raise ValueError("it must be a list of token ids or a list of such lists, none empty")

    @field_validator("best_of")
    @classmethod
    def _check_best_of(cls, value: int | None, info: ValidationInfo) -> int | None:
        n = info.data.get("n") or 1
        if value is None or value == n:
            return value
        if value < n:
            raise ValueError(f"it must be at least n, {n}")
        if info.data.get("stream"):
            raise ValueError(f"the best of {value} answers is known only at the end; leave stream out")
        return value

    @property
    def num_prompt_ids(self) -> int:
        """Number of token ids of the longest prompt; 0 if all are texts."""
        prompt = self.prompt if self.prompt_token_ids is None else self.prompt_token_ids
        if not isinstance(prompt, list):
            return 0
        sizes = (
            [len(prompt)] if type(prompt[0]) is int else [len(item) for item in prompt if type(item) is list]
        )
        return max(sizes, default=0) + len(self.completion_token_ids or ())

    @property
    def num_prompt_bytes(self) -> int:
        """Bytes of the longest text; 0 if there is none."""
        return max((len(text.encode()) for text in self.prompts() if isinstance(text, str)), default=0)

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives for each token of the answer; None: no log probabilities."""
        return self.logprobs

    @property
    def has_echo(self) -> bool:
        """Whether the answer begins with the prompt."""
        return bool(self.echo)

    @property
    def num_candidates(self) -> int:
        """Number of generations of each prompt."""
        return self.best_of or self.n or 1

    def prompts(self) -> list[str | tuple[int, ...]]:
        """Return the prompts, each a text or token ids."""
        prompt = self.prompt if self.prompt_token_ids is None else self.prompt_token_ids
        if isinstance(prompt, str):
            return [prompt]
        if _is_token_ids(prompt):
            return [tuple(prompt)]
        return [item if isinstance(item, str) else tuple(item) for item in prompt or ()]
