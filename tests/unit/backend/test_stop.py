"""Stop strings, however the text is cut."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.engine.stop import StopMatcher
from ernie_wire.marked_text import Mark, MarkedText, joined


def _answer(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    text = "".join(_push(matcher, piece) for piece in pieces)
    return text + matcher.finish().text, matcher.is_stopped


def _push(matcher: StopMatcher, piece: str, *, may_stop: bool = True) -> str:
    return matcher.push(MarkedText(piece), may_stop=may_stop).text


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


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.tuples(st.text("abc", max_size=5), st.booleans()), max_size=8),
)
def test_a_stop_string_counts_if_the_piece_that_completes_it_may_stop(
    stops: list[str], pieces: list[tuple[str, bool]]
) -> None:
    matcher, plain = StopMatcher(tuple(stops)), "".join(text for text, _ in pieces)
    made = [_push(matcher, piece, may_stop=may_stop) for piece, may_stop in pieces]
    text = "".join(made) + matcher.finish().text
    may_end_at, position = set(), 0
    for piece, may_stop in pieces:
        may_end_at |= {position + each + 1 for each in range(len(piece))} if may_stop else set()
        position += len(piece)
    ends = [end for end in sorted(may_end_at) if any(plain[:end].endswith(stop) for stop in stops)]
    if not ends:
        assert (text, matcher.is_stopped) == (plain, False)
    else:
        longest = max(len(stop) for stop in stops if plain[: ends[0]].endswith(stop))
        assert (text, matcher.is_stopped) == (plain[: ends[0] - longest], True)


def test_a_stop_string_may_be_part_of_the_answer() -> None:
    for cut in range(1, 8):
        matcher = StopMatcher(("stop", "op!"), is_included=True)
        text = "to stop! x"
        made = _push(matcher, text[:cut]) + _push(matcher, text[cut:])
        assert made + matcher.finish().text == "to stop"


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(("STOP",))
    assert _push(matcher, "a ST") == "a "
    assert _push(matcher, "x") == "STx"
    assert _push(matcher, "STOP!") == ""
    assert matcher.is_stopped
    assert _push(matcher, "more") == ""
    assert matcher.finish().text == ""


@pytest.mark.parametrize(
    ("stop", "is_included", "answer"),
    [
        ("l>x", False, MarkedText("a")),
        ("l>x", True, MarkedText("a<nl>x", (Mark(1, 5, 7),))),
        ("a<n", False, MarkedText()),
        ("a<n", True, MarkedText("a<nl>", (Mark(1, 5, 7),))),
        ("<nl>", False, MarkedText("a")),
        ("x", False, MarkedText("a<nl>", (Mark(1, 5, 7),))),
    ],
)
def test_a_mark_is_never_divided(stop: str, is_included: bool, answer: MarkedText) -> None:
    tag = MarkedText("a<nl>", (Mark(1, 5, 7),))
    for pieces in (
        [tag, MarkedText("xy")],
        [joined((tag, MarkedText("xy")))],
        [tag.cut(0, 1), tag.cut(1), MarkedText("x")],
    ):
        matcher = StopMatcher((stop,), is_included=is_included)
        made = [matcher.push(piece) for piece in pieces]
        assert joined((*made, matcher.finish())) == answer
        assert matcher.is_stopped


def test_a_mark_is_held_back_whole() -> None:
    tag = MarkedText("a<nl>", (Mark(1, 5, 7),))
    matcher = StopMatcher(("l>x",))
    assert matcher.push(tag) == MarkedText("a")
    assert matcher.push(tag) == MarkedText("<nl>a", (Mark(0, 4, 7),))
    assert matcher.finish() == MarkedText("<nl>", (Mark(0, 4, 7),))
