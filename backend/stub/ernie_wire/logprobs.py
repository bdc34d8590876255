"""Log probabilities of tokens, and their form in JSON.

    {"token_id": 5, "logprob": -0.1, "bytes": [72, 105], "rank": 1,
     "top": [{"token_id": 5, "logprob": -0.1, "bytes": [72, 105]}, ...]}

with ``"skipped": true`` if the token is not part of the text. A token stands for bytes, which need not be whole
characters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LOWEST_LOGPROB = -9999.0
"""Represents a probability of zero: JSON has no infinity."""


@dataclass(frozen=True)
class TopLogprob:
    """One of the most likely tokens of a position.

    Attributes:
        token_id: the token.
        logprob: natural logarithm of its probability, at least ``LOWEST_LOGPROB``.
        text_bytes: its text as bytes.
    """

    token_id: int
    logprob: float
    text_bytes: bytes

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"token_id": self.token_id, "logprob": self.logprob, "bytes": list(self.text_bytes)}


@dataclass(frozen=True)
class TokenLogprobs(TopLogprob):
    """The token of a position, and the most likely tokens there.

    Attributes:
        rank: 1 for the most likely token, and so on.
        top: the requested number of most likely tokens, most likely first; may include the token.
        is_skipped: whether it is a special token that was left out of the text.
    """

    rank: int
    top: tuple[TopLogprob, ...] = ()
    is_skipped: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        skipped = {"skipped": True} if self.is_skipped else {}
        return {**super().to_json(), "rank": self.rank, "top": [each.to_json() for each in self.top], **skipped}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TokenLogprobs:
        """Return the entry in the result of ``to_json``."""
        top = tuple(TopLogprob(*_base(each)) for each in values["top"])
        return cls(*_base(values), values["rank"], top, values.get("skipped", False))


def _base(values: Mapping[str, Any]) -> tuple[int, float, bytes]:
    return values["token_id"], values["logprob"], bytes(values["bytes"])


Logprobs = tuple[TokenLogprobs | None, ...]
"""One entry per token; only the first token of a prompt has None."""


def logprobs_to_json(entries: Logprobs) -> list[dict[str, Any] | None]:
    """Return entries as a JSON list."""
    return [None if entry is None else entry.to_json() for entry in entries]


def logprobs_to_vllm(entries: Logprobs) -> list[dict[str, Any]]:
    """Return entries of an answer in the format of Triton's vLLM backend: by token id, the chosen one first."""
    return [_to_vllm(entry) for entry in entries if entry is not None]


def _to_vllm(entry: TokenLogprobs) -> dict[str, Any]:
    ranked: list[tuple[int, TopLogprob]] = [(entry.rank, entry), *enumerate(entry.top, start=1)]
    return {
        str(token.token_id): {
            "logprob": token.logprob,
            "rank": rank,
            "decoded_token": token.text_bytes.decode(errors="replace"),
        }
        for rank, token in ranked
    }


def logprobs_from_json(values: Sequence[Mapping[str, Any] | None]) -> Logprobs:
    """Return the entries in the result of ``logprobs_to_json``."""
    return tuple(None if value is None else TokenLogprobs.from_json(value) for value in values)


def parse_logprobs(text: str | bytes) -> Logprobs:
    """Return the entries in the tensor ``logprobs`` or ``prompt_logprobs``."""
    return logprobs_from_json(json.loads(text))
