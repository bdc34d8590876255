"""The value of ``speculative_config``: a JSON object with the keys of FastDeploy and vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ernie_backend.settings.kinds import Choice, Integer, JsonObject, JsonValues, Kind
from ernie_wire.errors import InvalidValue
from ernie_wire.json_text import read_json_object


def _key(kind: Kind, default: Any) -> Any:  # noqa: ANN401 - the type of the field
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True)
class SpeculativeConfig(JsonValues):
    """How the next tokens are guessed, to be checked in one step.

    Attributes:
        method: ``ngram``: by ``engine.prompt_lookup``; it must be given.
        num_speculative_tokens: guesses of one step, at most.
        prompt_lookup_min, prompt_lookup_max: tokens that must be, and at most are, looked up in the text.
        disable_by_batch_size: with more requests than that under way there are no guesses: a step of many
            requests has no time to spare for them.
    """

    method: str | None = _key(Choice(("ngram",)), None)
    num_speculative_tokens: int = _key(Integer(1, 32), 7)
    prompt_lookup_min: int = _key(Integer(1, 32), 2)
    prompt_lookup_max: int = _key(Integer(1, 32), 6)
    disable_by_batch_size: int = _key(Integer(1, 4096), 4)

    def __post_init__(self) -> None:
        """Check that there is a method, and that the limits of a match are in order."""
        if self.method is None:
            raise ValueError('has no method; add "method": "ngram"')
        least, most = self.prompt_lookup_min, self.prompt_lookup_max
        if least > most:
            raise ValueError(f"has prompt_lookup_min {least} above prompt_lookup_max {most}")


@dataclass(frozen=True)
class Speculation:
    """The kind of ``speculative_config``; ``none`` and ``{}`` are none."""

    shown: str = "JSON"

    def read(self, text: str) -> SpeculativeConfig | None:
        """Return the values, or None."""
        if text.lower() == "none":
            return None
        try:
            given = read_json_object(text, "it")
        except InvalidValue as error:
            raise ValueError(f'is {text!r}; {error.message}; give {{"method": "ngram"}} or none') from None
        if not given:
            return None
        if given.get("method") in ("mtp", "eagle", "naive", "hybrid_mtp_ngram"):
            raise ValueError(f"has method {given['method']!r}, which is not supported yet; it must be 'ngram'")
        config = JsonObject(SpeculativeConfig).read(text)
        assert isinstance(config, SpeculativeConfig)  # noqa: S101 - JsonObject makes what it is given
        return config
