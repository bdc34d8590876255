"""Marks point at their token's characters, wherever text is cut and however it is joined."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ernie_wire.marked_text import Mark, MarkedText, joined

TAGS = {7: "<nl>", 8: "<é>", 9: "</think>"}
pieces = st.lists(st.sampled_from([*TAGS, "", "a", "<nl>", "€", "😀"]), max_size=12)


def _text(made: list[int | str]) -> MarkedText:
    """Numbers are tokens with marks, strings are text."""
    text, marks = "", []
    for each in made:
        new = TAGS[each] if isinstance(each, int) else each
        if isinstance(each, int):
            marks.append(Mark(len(text), len(text) + len(new), each))
        text += new
    return MarkedText(text, tuple(marks))


@given(st.tuples(pieces, pieces, pieces))
def test_joined_in_any_way_is_the_same(parts: tuple[list[int | str], ...]) -> None:
    first, second, third = map(_text, parts)
    whole = _text([each for part in parts for each in part])
    assert joined((first, second, third)) == whole
    assert joined((first, joined((second, third)))) == whole
    assert joined((joined((first, second)), third)) == whole


@given(pieces, st.integers(0, 60))
def test_cut_before_a_mark_and_joined_again_is_the_same(made: list[int | str], place: int) -> None:
    whole = _text(made)
    place = whole.place_before(min(place, len(whole.text)))
    assert joined((whole.cut(0, place), whole.cut(place))) == whole


@given(pieces, st.integers(0, 60), st.integers(0, 60))
def test_a_cut_keeps_the_marks_that_are_whole_in_it(made: list[int | str], start: int, end: int) -> None:
    whole = _text(made)
    part = whole.cut(start, end)
    assert part.text == whole.text[start:end]
    assert all(part.text[begin:stop] == TAGS[token_id] for begin, stop, token_id in part.marks)
    inside = [each for each in whole.marks if each.start >= start and each.end <= min(end, len(whole.text))]
    assert [each.token_id for each in part.marks] == [each.token_id for each in inside]
