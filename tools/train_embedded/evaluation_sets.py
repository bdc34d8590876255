"""Writes the held-out sets into the repository: ``python -m train_embedded.evaluation_sets``.

One JSON object a line: messages without the last answer, the answers that count as right, category, language.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from train_embedded.arithmetic import sums
from train_embedded.chats import Chat
from train_embedded.mixture import ASKED, ASKED_SUMS, asked

SEED = 20251122
DIRECTORY = Path(__file__).resolve().parents[2] / "benchmarks" / "evaluation"
QUESTIONS = "questions.jsonl"
ARITHMETIC = "arithmetic.jsonl"


def held_out() -> dict[str, list[Chat]]:
    """Return the chats of both sets: name of the file -> chats."""
    random = Random(SEED)
    questions = [chat for generator, count in ASKED.items() for chat in asked(random, generator, count)]
    return {QUESTIONS: questions, ARITHMETIC: asked(random, sums, ASKED_SUMS)}


def line(chat: Chat) -> dict[str, Any]:
    """Return a chat as an object of the file."""
    last = chat.turns[-1]
    return {
        "messages": chat.messages()[:-1],
        "answers": list(dict.fromkeys((last.answer, *last.also))),
        "category": chat.category,
        "language": chat.language,
    }


def text(chats: Iterable[Chat]) -> str:
    """Return the text of a file."""
    return "".join(json.dumps(line(chat), ensure_ascii=False) + "\n" for chat in chats)


def main() -> None:
    """Write both files."""
    DIRECTORY.mkdir(exist_ok=True)
    for name, chats in held_out().items():
        (DIRECTORY / name).write_text(text(chats), encoding="utf-8")


if __name__ == "__main__":
    main()
