"""The repetition guard, against the slowest definition of a loop and against pages that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.config.architectures import ARCHITECTURES
from ernie_backend.engine.repetition import RepetitionGuard
from ernie_wire.errors import InvalidValue
from ernie_wire.repetition import MAX_PATTERN_SIZE, RepetitionDetection

PAGE = ARCHITECTURES["PaddleOCRVLForConditionalGeneration"].repetition
EMPTY_CELL, CELL, ROW_END, DOT = 1, 2, 3, 4

detections = st.builds(
    lambda least, more, count, tokens: RepetitionDetection(least + more, least, count, tokens),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(2, 4),
    st.integers(0, 12),
)


def is_loop(answer: list[int], detection: RepetitionDetection) -> bool:
    """The definition: some pattern at the end occurs there often enough, and covers enough tokens."""
    for size in range(max(1, detection.min_pattern_size), detection.max_pattern_size + 1):
        count = detection.min_count
        while size * count < detection.min_repeated_tokens:
            count += 1
        if len(answer) >= size * count and answer[-size * count :] == answer[-size:] * count:
            return True
    return False


def loops(answer: list[int], detection: RepetitionDetection) -> list[bool]:
    """Return for each token whether the guard sees a loop there."""
    guard = RepetitionGuard(detection)
    return [guard.push(token) for token in answer]


@given(st.lists(st.integers(0, 2), max_size=60), detections)
def test_the_guard_sees_what_the_definition_says(answer: list[int], detection: RepetitionDetection) -> None:
    expected = [is_loop(answer[:end], detection) for end in range(1, len(answer) + 1)]
    assert loops(answer, detection) == expected


@given(
    st.lists(st.integers(5, 9), max_size=30), st.lists(st.integers(5, 9), min_size=1, max_size=7), detections
)
def test_a_loop_ends_at_the_first_token_that_makes_it_one(
    before: list[int], pattern: list[int], detection: RepetitionDetection
) -> None:
    answer = before + pattern * 20
    expected = [is_loop(answer[:end], detection) for end in range(1, len(answer) + 1)]
    assert loops(answer, detection) == expected


def test_what_is_kept_does_not_grow() -> None:
    guard = RepetitionGuard(RepetitionDetection(64, 1, 20))
    for token in range(5_000):
        assert not guard.push(token)
        kept = [each for each in vars(guard).values() if isinstance(each, (list, np.ndarray))]
        assert sum(map(len, kept)) <= 4 * 64


LOOPS = {
    "one token": [DOT],
    "two tokens": [CELL, 50],
    "a row of empty cells": [*[EMPTY_CELL] * 12, ROW_END],
    "a long row": [*range(100, 400), ROW_END],
    "the longest": list(range(100, 612)),
}


@pytest.mark.parametrize("pattern", LOOPS.values(), ids=LOOPS)
def test_a_loop_of_a_page_ends_within_half_of_what_clients_ask_for(pattern: list[int]) -> None:
    """PaddleX asks for 4,096 tokens or 8,192; the longest pattern ends with the first of these."""
    answer = [7, 8, 9, *pattern * 4096]
    end = loops(answer[:4200], PAGE).index(True)
    assert end <= 3 + max(2048 + len(pattern), 8 * len(pattern))


def _table(rows: int, columns: int, first: list[int]) -> list[int]:
    return [token for _ in range(rows) for token in [*first, *[EMPTY_CELL] * columns, ROW_END]]


PAGES = {
    "an empty table of 50 rows and 20 columns": _table(50, 20, []),
    "an empty calendar of 31 columns for 60 people": _table(60, 31, []),
    "squares for 500 characters": [DOT] * 500,
    "a table of contents": [token for page in range(60) for token in (*[DOT] * 120, 100 + page, ROW_END)],
    "forty equal lines to fill in": [*range(100, 140)] * 40,
    "a table of zeros": [token for _ in range(40) for token in (*(CELL, 50) * 20, ROW_END)],
}


@pytest.mark.parametrize("answer", PAGES.values(), ids=PAGES)
def test_a_page_is_no_loop(answer: list[int]) -> None:
    assert True not in loops(answer, PAGE)


def test_by_default_only_paddleocr_s_answers_are_watched() -> None:
    watched = {each.name for each in ARCHITECTURES.values() if each.repetition.max_pattern_size}
    assert watched == {"PaddleOCRVLForConditionalGeneration"}


def test_the_object_and_back() -> None:
    asked = {"max_pattern_size": 20, "min_pattern_size": 2.0, "min_count": 3, "min_repeated_tokens": None}
    detection = RepetitionDetection.from_json(asked)
    assert detection == RepetitionDetection(20, 2, 3, 0)
    assert RepetitionDetection.from_json(detection.to_json()) == detection
    off = {"max_pattern_size": 0}
    assert RepetitionDetection.from_json(off) == RepetitionDetection.from_json({}) == RepetitionDetection()
    assert RepetitionDetection.from_json({"max_pattern_size": 4, "min_pattern_size": 0, "min_count": 2})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], "object"),
        ({"max_size": 3}, "max_size"),
        ({"max_pattern_size": -1}, "max_pattern_size"),
        ({"max_pattern_size": MAX_PATTERN_SIZE + 1, "min_count": 2}, str(MAX_PATTERN_SIZE)),
        ({"max_pattern_size": 3, "min_pattern_size": 4, "min_count": 2}, "min_pattern_size is 4"),
        ({"max_pattern_size": 3}, "min_count is 0"),
        ({"max_pattern_size": 3, "min_count": 1}, "min_count is 1"),
        ({"max_pattern_size": 3, "min_count": 2.5}, "min_count is 2.5"),
        ({"max_pattern_size": 3, "min_count": True}, "min_count is True"),
        ({"max_pattern_size": 3, "min_count": 2, "min_repeated_tokens": 1 << 25}, "min_repeated_tokens"),
    ],
)
def test_what_is_wrong_is_named(asked: Any, said: str) -> None:
    with pytest.raises(InvalidValue, match=said) as caught:
        RepetitionDetection.from_json(asked)
    assert str(caught.value.param).startswith("repetition_detection")
