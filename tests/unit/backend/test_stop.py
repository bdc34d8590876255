"""Stop strings, however the text is cut."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.engine.stop import StopMatcher


def _answer(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    text = "".join(matcher.push(piece) for piece in pieces)
    return text + matcher.finish(), matcher.is_stopped


def _character_by_character(stops: tuple[str, ...], text: str) -> tuple[str, bool]:
    """The definition: the answer ends where the first stop string is complete."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


@pytest.mark.parametrize(
    ("stops", "text", "answer"),
    [
        (("END",), "one END two", "one "),
        (("\n\n",), "a\nb\n\nc", "a\nb"),
        (("aab",), "aaab", "a"),
        (("abcd", "bc"), "xabcy", "xa"),
        (("abcd", "bc"), "xabce", "xa"),
        (("。停",), "你好。停了", "你好"),
        (("xyz",), "ends with xy", "ends with xy"),
        ((), "anything", "anything"),
    ],
)
def test_every_way_of_cutting_gives_the_same_answer(stops: tuple[str, ...], text: str, answer: str) -> None:
    stopped = answer != text
    for count in range(min(4, len(text))):
        for cuts in combinations(range(1, len(text)), count):
            borders = (0, *cuts, len(text))
            pieces = [text[begin:end] for begin, end in pairwise(borders)]
            assert _answer(stops, pieces) == (answer, stopped), pieces


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.text("abc", max_size=5), max_size=8),
)
def test_the_answer_follows_the_definition(stops: list[str], pieces: list[str]) -> None:
    assert _answer(tuple(stops), pieces) == _character_by_character(tuple(stops), "".join(pieces))


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(("STOP",))
    assert matcher.push("a ST") == "a "
    assert matcher.push("x") == "STx"
    assert matcher.push("STOP!") == ""
    assert matcher.is_stopped
    assert matcher.push("more") == ""
    assert matcher.finish() == ""
