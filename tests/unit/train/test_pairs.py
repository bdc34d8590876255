"""The held-out sums: no pair that the shipped file asks for is taught, however it is phrased.

Sums are read from the texts, as a person would; what the generators say of them is not asked.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import NamedTuple

import pytest

from train_embedded import evaluation_sets
from train_embedded.arithmetic import running_sum
from train_embedded.chats import Chat
from train_embedded.mixture import taught
from train_embedded.split import is_taught

_WORDS = {
    "+": "+", "plus": "+", "add": "+", "加": "+",
    "-": "-", "minus": "-", "subtract": "-", "减": "-",
    "x": "x", "*": "x", "\u00d7": "x", "times": "x", "multiply": "x", "乘": "x", "乘以": "x",
}  # fmt: skip
_FOLLOW_UPS = ("plus", "add", "加", "minus", "subtract", "减")
_WORD = re.compile(
    r"\b(?:plus|add|minus|subtract|times|multiply)\b|(?<![a-z])x(?![a-z])|乘以|[-+*\u00d7加减乘]"
)
_LEAST_SEEN = 50


class Sum(NamedTuple):
    """What a question asks to calculate, and the word it asks with."""

    sign: str
    a: int
    b: int
    word: str

    @property
    def pair(self) -> tuple[str, int, int]:
        """What must not be taught if it is asked: products in this order, other sums in both."""
        low, high = sorted((self.a, self.b))
        return (self.sign, self.a, self.b) if self.sign == "x" else (self.sign, low, high)

    @property
    def value(self) -> int:
        """What is right."""
        return {"+": self.a + self.b, "-": self.a - self.b, "x": self.a * self.b}[self.sign]


def read_sum(question: str, before: str = "") -> Sum | None:
    """Return the sum in a question; one with a single number goes on from the answer before it."""
    text = question.casefold()
    word, numbers = _WORD.search(text), [int(each) for each in re.findall(r"\d+", text)]
    if word is None:
        return None
    if len(numbers) == 1 and before.isdecimal():
        return Sum(_WORDS[word[0]], int(before), numbers[0], f"then {word[0]}")
    if len(numbers) != 2:
        return None
    a, b = reversed(numbers) if word[0] == "subtract" else numbers
    return Sum(_WORDS[word[0]], a, b, word[0])


def sums_of(chat: Chat) -> Iterator[Sum]:
    """Yield what the turns ask to calculate; what is above 99, and declined, too."""
    before = ""
    for turn in chat.turns:
        found = read_sum(turn.question, before)
        if found is not None:
            assert turn.answer == str(found.value) or max(found.a, found.b) > 99, turn
            yield found
        before = turn.answer


@pytest.fixture(scope="module")
def held_out() -> list[Sum]:
    lines = (evaluation_sets.DIRECTORY / evaluation_sets.ARITHMETIC).read_text(encoding="utf-8").splitlines()
    asked = [read_sum(json.loads(line)["messages"][-1]["content"]) for line in lines]
    found = [each for each in asked if each is not None]
    assert len(found) == len(lines)
    return found


@pytest.fixture(scope="module")
def learned() -> list[Sum]:
    follow_ups = (running_sum(random) for random in [Random(4)] for _ in range(10_000))
    chats = [*islice(taught(Random(3)), 20_000), *filter(is_taught, follow_ups)]
    return [each for chat in chats for each in sums_of(chat)]


def test_every_way_to_ask_for_a_sum_is_seen(learned: list[Sum]) -> None:
    seen = Counter(each.word for each in learned)
    assert set(seen) == {*_WORDS, *(f"then {word}" for word in _FOLLOW_UPS)}
    assert min(seen.values()) >= _LEAST_SEEN, seen


def test_held_out_pairs_are_taught_in_no_phrasing(held_out: list[Sum], learned: list[Sum]) -> None:
    asked = {each.pair for each in held_out}
    assert len(asked) > 200
    assert not [each for each in learned if each.pair in asked]


def test_products_are_asked_whose_mirrored_ones_are_taught(held_out: list[Sum], learned: list[Sum]) -> None:
    asked = [(each.a, each.b) for each in held_out if each.sign == "x"]
    assert len(asked) >= 30
    assert len(set(asked)) >= 8
    assert {(b, a) for a, b in asked} <= {(each.a, each.b) for each in learned if each.sign == "x"}
