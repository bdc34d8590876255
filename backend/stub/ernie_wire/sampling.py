"""Sampling parameters: what a request may ask of the sampler and of the stop rules.

One definition for every path. Limits are checked here, before a request enters a queue. Absent values
(None) are filled by the engine from the model's generation_config: this module must not know any model's
defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ernie_wire.errors import InvalidValue

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class SamplingParameters:
    """What one request asks of the sampler; None means the model's default.

    Attributes:
        max_tokens: most tokens to generate, at least 1; cut to the rest of the context.
        temperature: at least 0; below 1e-5 is greedy.
        top_p: nucleus mass in [0, 1]; below 1e-5 is greedy.
        top_k: keep the k most likely tokens; 0 keeps all.
        seed: makes the choice of tokens repeatable, in [0, 2**63 - 1].
        stop: texts that end the answer; they are not part of it.
        ignore_eos: go on after the end-of-sequence token.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        """Check every limit; raise InvalidValue naming the field, the value and the limit."""
        _check_number("max_tokens", self.max_tokens, 1, None, integer=True)
        _check_number("temperature", self.temperature, 0, None)
        _check_number("top_p", self.top_p, 0, 1)
        _check_number("top_k", self.top_k, 0, None, integer=True)
        _check_number("seed", self.seed, 0, MAX_SEED, integer=True)
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise InvalidValue(f"stop holds {text!r}; each stop text must be a non-empty string", "stop")
        if not isinstance(self.ignore_eos, bool):
            raise InvalidValue(f"ignore_eos is {self.ignore_eos!r}; it must be true or false", "ignore_eos")

    @classmethod
    def from_json(cls, values: object) -> SamplingParameters:
        """Return the parameters in a decoded JSON object.

        ``stop`` may be one string or a list. Raises InvalidValue for anything unknown or outside its limits.
        """
        if not isinstance(values, Mapping):
            raise InvalidValue("sampling_parameters must be a JSON object", "sampling_parameters")
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise InvalidValue(
                    f"sampling_parameters has no field {name!r}; known: {', '.join(sorted(known))}", str(name)
                )
        return cls(**{**values, "stop": _stop_texts(values.get("stop"))})

    def to_json(self) -> dict[str, Any]:
        """Return the fields that were set, as a JSON object that ``from_json`` reads."""
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }


def _stop_texts(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (list, tuple)):
        return tuple(value)
    raise InvalidValue(f"stop is {value!r}; it must be a string or a list of strings", "stop")


def _check_number(name: str, value: object, low: float, high: float | None, *, integer: bool = False) -> None:
    if value is None:
        return
    kinds = (int,) if integer else (int, float)
    kind = "an integer" if integer else "a number"
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise InvalidValue(f"{name} is {value!r}; it must be {kind}", name)
    if not (low <= value and (high is None or value <= high)):  # written so that NaN fails
        limit = f"in [{low}, {high}]" if high is not None else f"at least {low}"
        raise InvalidValue(f"{name} is {value}; it must be {limit}", name)
    if value == float("inf"):
        raise InvalidValue(f"{name} is infinite; it must be finite", name)
