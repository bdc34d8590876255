"""What came back for a question. This module must not know what is right."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """A model's words, or a refusal.

    Attributes:
        text: what the model said; "" if the question was refused.
        model: who answered, as it calls itself; "" if it does not say, or refused.
        refusal: the server's reason; "" if the question was answered.
    """

    text: str = ""
    model: str = ""
    refusal: str = ""
