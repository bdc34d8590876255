"""What ``generation_config.json`` says about sampling: the defaults of requests.

Without a value there, temperature is 1.0 and top_p 0.7, as in FastDeploy; ``do_sample`` false makes greedy
sampling the default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ernie_backend.config.fields import read_json_object
from ernie_backend.errors import StartError
from ernie_wire.checks import as_integer, check_number
from ernie_wire.errors import InvalidValue
from ernie_wire.repetition import RepetitionDetection
from ernie_wire.sampling import MODEL_DEFAULTS, SamplingParameters

MIN_REPETITION_PENALTY = 1e-3
"""A request may go lower, as long as it is above 0; in a model's file a lower value is taken for a mistake."""


@dataclass(frozen=True)
class GenerationConfig:
    """Defaults for requests.

    Attributes:
        sampling: values for what a request leaves out; all of ``MODEL_DEFAULTS`` is set, and nothing else.
        max_new_tokens: for requests without max_tokens; None: the rest of the context.
        eos_token_ids: tokens that end an answer.
        repetition: which loop ends an answer; what the architecture says, since no file does.
    """

    sampling: SamplingParameters = field(default_factory=lambda: SamplingParameters(**MODEL_DEFAULTS))
    max_new_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    repetition: RepetitionDetection = field(default_factory=RepetitionDetection)

    @classmethod
    def from_directory(
        cls, directory: Path, eos_token_ids: tuple[int, ...], repetition: RepetitionDetection | None = None
    ) -> GenerationConfig:
        """Read ``directory/generation_config.json``; without it all defaults hold.

        Args:
            directory: of the model.
            eos_token_ids: those of config.json; the file's are added to them.
            repetition: of the architecture.

        Raises:
            StartError: the file cannot be read, or a value is outside its limits.
        """
        path = directory / "generation_config.json"
        values = read_json_object(path)
        more = values.get("eos_token_id")
        ids = more if isinstance(more, list) else [] if more is None else [more]
        if not all(isinstance(each, int) and each >= 0 for each in ids):
            raise StartError(f"{path}: eos_token_id must be a token id or a list of them, found {more!r}")
        try:
            return cls(
                sampling=_sampling(values),
                max_new_tokens=_max_new_tokens(values),
                eos_token_ids=tuple(dict.fromkeys((*eos_token_ids, *ids))),
                repetition=repetition or RepetitionDetection(),
            )
        except InvalidValue as error:
            raise StartError(f"{path}: {error.message}") from None

    def to_json(self) -> dict[str, Any]:
        """Return the defaults as a JSON object, for ``describe``."""
        return {
            **self.sampling.to_json(),
            "max_new_tokens": self.max_new_tokens,
            "eos_token_ids": list(self.eos_token_ids),
            "repetition_detection": self.repetition.to_json(),
        }


def _sampling(values: dict[str, Any]) -> SamplingParameters:
    settings = {name: values[name] for name in MODEL_DEFAULTS if values.get(name) is not None}
    if values.get("do_sample") is False:
        settings["temperature"] = 0.0
    sampling = SamplingParameters.from_json({**MODEL_DEFAULTS, **settings})
    check_number("repetition_penalty", sampling.repetition_penalty, MIN_REPETITION_PENALTY, None)
    return sampling


def _max_new_tokens(values: dict[str, Any]) -> int | None:
    value = as_integer(values.get("max_new_tokens"))
    check_number("max_new_tokens", value, 0, None, integer=True)
    return value if isinstance(value, int) and value else None
