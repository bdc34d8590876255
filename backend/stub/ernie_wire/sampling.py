"""Sampling parameters: the one definition of how a request is sampled and stopped, and its limits.

Missing values (None) get the model's defaults in the engine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from ernie_wire.checks import (
    MAX_TOKEN_ID,
    as_count,
    as_integer,
    as_integers,
    check_flag,
    check_number,
    check_texts,
    check_token_ids,
)
from ernie_wire.errors import InvalidValue
from ernie_wire.repetition import check_repetition_detection
from ernie_wire.structured_outputs import check_structured_outputs

MODEL_DEFAULTS: Mapping[str, Any] = {
    "temperature": 1.0,
    "top_p": 0.7,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}
"""Fields for which a model's generation_config.json may have defaults, and the defaults if it has none."""
MAX_SEED = 2**63 - 1
MAX_BIAS = 100
_MAX_DIGITS = 20
_LEAST = {
    "max_tokens": 0,
    "min_tokens": 0,
    "reasoning_max_tokens": 1,
    "response_max_tokens": 1,
    "top_k": -1,
    "logprobs": -1,
    "prompt_logprobs": -1,
    "truncate_prompt_tokens": -1,
}
MAX_STOPS, MAX_STOP_BYTES = 16, 4096
"""Between two steps of all requests, every new text is searched for every stop, so their number is limited."""
MAX_BAD_WORDS, MAX_BAD_WORD_BYTES = 1024, 65536


@dataclass(frozen=True)
class SamplingParameters:
    """The sampling parameters of one request; None means the model's default.

    Attributes:
        max_tokens: maximum number of tokens to generate; cut to the rest of the context. 0: only the prompt is
            processed, and without prompt_logprobs it may be longer than the context.
        min_tokens: fewest tokens before EOS, a stop token or a stop text may end the answer.
        reasoning_max_tokens: maximum number of tokens of thinking, at least 1; then thinking is closed.
        response_max_tokens: maximum number of tokens after thinking, at least 1.
        temperature: at least 0; below 1e-5 is greedy.
        top_p: nucleus mass in [0, 1]; below 1e-5 is greedy.
        top_k: keep the k most likely tokens; 0 or -1 keeps all.
        min_p: drop tokens less likely than this fraction, in [0, 1], of the most likely one; 0 keeps all.
        repetition_penalty: above 0, 1 is neutral; divides positive and multiplies negative logits of tokens
            in the prompt or the answer.
        frequency_penalty: subtracted from a token's logit for each occurrence in the answer, in [-2, 2].
        presence_penalty: subtracted once from the logit of a token that occurs in the answer, in [-2, 2].
        logit_bias: token id to a number in [-100, 100], which is added to its logit.
        allowed_token_ids: only these tokens may be generated, at least one; EOS only if it is one of them.
        bad_words: texts that are never generated, with or without a space before them.
        bad_words_token_ids: tokens that are never generated.
        seed: makes the sampled tokens reproducible, in [-2**63, 2**63 - 1]; -1: no seed.
        stop: texts that end the answer, at most 16; they are not part of it.
        stop_token_ids: tokens that end the answer, as EOS does.
        include_stop_str_in_output: keep the stop text, or the stop token's text, in the answer.
        ignore_eos: continue after the end-of-sequence token.
        skip_special_tokens: leave special tokens out of the text, and so out of the search for stop texts;
            default true.
        logprobs: log probabilities of each token of the answer and of this many of the most likely ones there;
            -1: of all.
        prompt_logprobs: the same for the tokens of the prompt.
        truncate_prompt_tokens: keep only the last tokens of the prompt, this many; -1: as many as the context
            has room for next to max_tokens, or next to its default but at least half of the context.
        structured_outputs: what the answer must be: an object with exactly one of json, json_object, regex,
            choice, grammar, structural_tag.
        repetition_detection: ends an answer that repeats a pattern: an object of max_pattern_size,
            min_pattern_size, min_count and min_repeated_tokens; max_pattern_size 0: it is not ended. Default
            the model's.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    reasoning_max_tokens: int | None = None
    response_max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    bad_words_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None
    structured_outputs: Mapping[str, Any] | None = None
    repetition_detection: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check every limit; raise InvalidValue naming the field, the value and the limit."""
        check_number("temperature", self.temperature, 0, None)
        for name in ("top_p", "min_p"):
            check_number(name, getattr(self, name), 0, 1)
        for name in ("frequency_penalty", "presence_penalty"):
            check_number(name, getattr(self, name), -2, 2)
        check_number("repetition_penalty", self.repetition_penalty, 0, None, is_low_excluded=True)
        for name, least in _LEAST.items():
            check_number(name, getattr(self, name), least, None, integer=True)
        if self.truncate_prompt_tokens == 0:
            message = "truncate_prompt_tokens is 0; it must be at least 1, or -1"
            raise InvalidValue(message, "truncate_prompt_tokens")
        check_structured_outputs(self.structured_outputs)
        check_repetition_detection(self.repetition_detection)
        check_number("seed", self.seed, -MAX_SEED - 1, MAX_SEED, integer=True)
        check_texts("stop", self.stop, MAX_STOPS, MAX_STOP_BYTES)
        check_texts("bad_words", self.bad_words, MAX_BAD_WORDS, MAX_BAD_WORD_BYTES)
        for name in ("stop_token_ids", "bad_words_token_ids", "allowed_token_ids"):
            check_token_ids(name, getattr(self, name) or (), MAX_TOKEN_ID)
        if self.allowed_token_ids == ():
            raise InvalidValue(
                "allowed_token_ids is empty; it must have at least one token", "allowed_token_ids"
            )
        for name in ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"):
            check_flag(name, getattr(self, name))
        check_token_ids("logit_bias", self.logit_bias, MAX_TOKEN_ID)
        for bias in self.logit_bias.values():
            check_number("logit_bias", bias, -MAX_BIAS, MAX_BIAS, required=True)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidValue(
                f"min_tokens is {self.min_tokens}; it must be at most max_tokens, {self.max_tokens}",
                "min_tokens",
            )

    @classmethod
    def from_json(cls, values: object) -> SamplingParameters:
        """Return the parameters in a decoded JSON object; null means missing.

        ``stop`` and ``bad_words`` may be a string or a list; an empty string is ignored. Integers may be whole
        floats, and numbers of log probabilities booleans. The keys of ``logit_bias`` are strings.

        Raises:
            InvalidValue: an unknown field, or a value outside its limits.
        """
        if not isinstance(values, Mapping):
            raise InvalidValue("sampling_parameters must be a JSON object", "sampling_parameters")
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise InvalidValue(
                    f"sampling_parameters has no field {name!r}; known: {', '.join(sorted(known))}", str(name)
                )
        arguments: dict[str, Any] = {
            name: _READERS[name](value) if name in _READERS else value
            for name, value in values.items()
            if value is not None
        }
        for name in ("stop", "bad_words", "stop_token_ids", "bad_words_token_ids", "allowed_token_ids"):
            if name in arguments:
                arguments[name] = _tuple(name, arguments[name])
        if "logit_bias" in arguments:
            arguments["logit_bias"] = _biases(arguments["logit_bias"])
        return cls(**arguments)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as a JSON object for ``from_json``."""
        default = SamplingParameters()
        set_fields = {
            each.name: value
            for each in fields(self)
            if (value := getattr(self, each.name)) != getattr(default, each.name)
        }
        for name, value in set_fields.items():
            if isinstance(value, tuple):
                set_fields[name] = list(value)
            elif name == "logit_bias":
                set_fields[name] = {str(token_id): bias for token_id, bias in value.items()}
        return set_fields


def read_texts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with texts of numbers and booleans parsed, as clients of Triton's vLLM backend send them.

    Other texts are kept, and ``SamplingParameters`` refuses them.
    """
    return {
        name: _TEXT_READERS[name](value) if isinstance(value, str) and name in _TEXT_READERS else value
        for name, value in values.items()
    }


def _number(text: str) -> float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _flag(text: str) -> bool | str:
    return {"true": True, "false": False}.get(text.lower(), text)


def _by_type(readers: Mapping[Any, Callable[[Any], object]]) -> dict[str, Callable[[Any], object]]:
    """Return the reader of each field whose type has one."""
    hints = get_type_hints(SamplingParameters).items()
    return {name: readers[hint] for name, hint in hints if hint in readers}


_READERS = {
    **_by_type(dict.fromkeys((int, int | None), as_integer)),
    **_by_type(dict.fromkeys((tuple[int, ...], tuple[int, ...] | None), as_integers)),
    **dict.fromkeys(("logprobs", "prompt_logprobs"), as_count),
}
_TEXT_READERS = _by_type({bool: _flag, **dict.fromkeys((int, int | None, float, float | None), _number)})


def _tuple(name: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, str) and not name.endswith("_ids"):
        return (value,) if value else ()
    if isinstance(value, (list, tuple)):
        return tuple(value)
    kinds = "a list of token ids" if name.endswith("_ids") else "a string or a list of strings"
    raise InvalidValue(f"{name} is {value!r}; it must be {kinds}", name)


def _biases(value: object) -> dict[int, Any]:
    if not isinstance(value, Mapping):
        raise InvalidValue(
            f"logit_bias is {value!r}; it must be an object of token ids and numbers", "logit_bias"
        )
    for key in value:
        if not (isinstance(key, int) or _is_number(key)):
            raise InvalidValue(
                f"logit_bias has the key {str(key)[:40]!r}; keys must be token ids", "logit_bias"
            )
    return {int(key): bias for key, bias in value.items()}


def _is_number(key: object) -> bool:
    """Return whether a key is a decimal number, short enough for ``int``."""
    return isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) <= _MAX_DIGITS
