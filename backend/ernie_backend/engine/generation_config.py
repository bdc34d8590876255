"""What ``generation_config.json`` says about sampling: the defaults of requests.

If the file is silent, temperature is 1.0 and top_p 0.7, as in FastDeploy; ``do_sample`` false makes greedy the
default. This module must not know requests.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ernie_backend.errors import StartError
from ernie_backend.model_files import read_json_object
from ernie_wire.limits import MAX_NUMBER

DEFAULT_TEMPERATURE = 1.0
DEFAULT_TOP_P = 0.7
MIN_REPETITION_PENALTY = 1e-3
"""A request may go lower, as long as it is above 0; a model's file that does is taken for a mistake."""


@dataclass(frozen=True)
class GenerationConfig:
    """Defaults for requests.

    Attributes:
        temperature, top_p, top_k: for requests that give none; temperature 0 is greedy.
        max_new_tokens: for requests without max_tokens; None: the rest of the context.
        eos_token_ids: tokens that end an answer.
        min_p, repetition_penalty, frequency_penalty, presence_penalty: for requests that give none; neutral if
            the file is silent.
    """

    temperature: float = DEFAULT_TEMPERATURE
    top_p: float = DEFAULT_TOP_P
    top_k: int = 0
    max_new_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    @classmethod
    def from_directory(cls, directory: Path, eos_token_ids: tuple[int, ...]) -> GenerationConfig:
        """Read ``directory/generation_config.json``; without it all defaults hold.

        Args:
            directory: of the model.
            eos_token_ids: those of config.json; the file's are added to them.

        Raises:
            StartError: the file cannot be read, or a value is outside its limits.
        """
        path = directory / "generation_config.json"
        values = read_json_object(path)
        greedy = values.get("do_sample") is False
        more = values.get("eos_token_id")
        ids = more if isinstance(more, list) else [] if more is None else [more]
        if not all(isinstance(each, int) and each >= 0 for each in ids):
            raise StartError(f"{path}: eos_token_id must be a token id or a list of them, found {more!r}")
        return cls(
            temperature=0.0 if greedy else _number(path, values, "temperature", DEFAULT_TEMPERATURE, (0, None)),
            top_p=_number(path, values, "top_p", DEFAULT_TOP_P, (0, 1)),
            top_k=max(0, int(_number(path, values, "top_k", 0, (-1, None)))),
            max_new_tokens=int(_number(path, values, "max_new_tokens", 0, (0, None))) or None,
            eos_token_ids=tuple(dict.fromkeys((*eos_token_ids, *ids))),
            min_p=_number(path, values, "min_p", 0.0, (0, 1)),
            repetition_penalty=_number(path, values, "repetition_penalty", 1.0, (MIN_REPETITION_PENALTY, None)),
            frequency_penalty=_number(path, values, "frequency_penalty", 0.0, (-2, 2)),
            presence_penalty=_number(path, values, "presence_penalty", 0.0, (-2, 2)),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the defaults as a JSON object, for ``describe``."""
        return {**asdict(self), "eos_token_ids": list(self.eos_token_ids)}


def _number(
    path: Path, values: dict[str, Any], name: str, default: float, limits: tuple[float, float | None]
) -> float:
    value = values.get(name)
    if value is None:
        return default
    low, high = limits
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise StartError(f"{path}: {name} must be a number, found {value!r}")
    if not low <= value <= (MAX_NUMBER if high is None else high):  # written so that NaN fails
        limit = f"finite and at least {low}" if high is None else f"in [{low}, {high}]"
        raise StartError(f"{path}: {name} is {value}; it must be {limit}")
    return value
