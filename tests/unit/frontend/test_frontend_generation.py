"""Gathering deltas: whole answers, several at once, and what happens to the others when one fails."""

from __future__ import annotations

import asyncio

import pytest

from ernie_frontend.generation import Delta, Deltas, collect, collect_all, gather, merge, only_prompt, replay
from ernie_wire.errors import EngineCrashed, InvalidValue
from ernie_wire.marked_text import Mark


async def tell(*texts: str) -> Deltas:
    for index, text in enumerate(texts):
        is_last = index == len(texts) - 1
        yield Delta(text, (index,), 1, 5, "stop" if is_last else None, (9,) if index == 0 else None)


class Hanging:
    """A generation that never answers and tells when it is closed."""

    def __init__(self) -> None:
        self.is_closed = False

    async def deltas(self) -> Deltas:
        try:
            await asyncio.Event().wait()
            yield Delta()
        finally:
            self.is_closed = True


async def fail() -> Deltas:
    raise InvalidValue("no")
    yield Delta()


async def test_collect_joins() -> None:
    assert await collect(tell("a", "b")) == Delta("ab", (0, 1), 2, 5, "stop", (9,))


async def test_marks_move_with_the_text_that_they_are_in() -> None:
    async def tags() -> Deltas:
        yield Delta("a<nl>", marks=(Mark(1, 5, 7),), num_output_tokens=2)
        yield Delta("<nl>", marks=(Mark(0, 4, 7),), num_output_tokens=1, finish_reason="stop")

    whole = Delta("a<nl><nl>", (), 3, marks=(Mark(1, 5, 7), Mark(5, 9, 7)), finish_reason="stop")
    assert await collect(tags()) == whole
    assert [delta async for delta in gather(tags(), 9)] == [whole]
    assert [(delta.text, delta.marks) async for delta in only_prompt(tags())] == [("", ())] * 2


async def test_collect_reads_to_the_end() -> None:
    has_ended = False

    async def ends_later() -> Deltas:
        nonlocal has_ended
        yield Delta("a", (0,), 1, 5, "stop")
        has_ended = True

    await collect(ends_later())
    assert has_ended


async def test_collect_wants_a_finish_reason() -> None:
    async def cut() -> Deltas:
        yield Delta("a")

    with pytest.raises(EngineCrashed):
        await collect(cut())


async def test_collect_all_keeps_the_order() -> None:
    answers = await collect_all([tell("a", "b", "c"), tell("d")])
    assert [answer.text for answer in answers] == ["abc", "d"]


async def test_collect_all_closes_the_others() -> None:
    hanging = Hanging()
    with pytest.raises(InvalidValue):
        await collect_all([hanging.deltas(), fail()])
    assert hanging.is_closed


async def test_merge_yields_everything_with_its_index() -> None:
    merged = [(index, delta.text) async for index, delta in merge([tell("a", "b"), tell("c")])]
    assert sorted(merged) == [(0, "a"), (0, "b"), (1, "c")]


async def test_merge_closes_the_others() -> None:
    hanging = Hanging()
    with pytest.raises(InvalidValue):
        [item async for item in merge([hanging.deltas(), fail()])]
    assert hanging.is_closed


async def test_closing_a_merge_closes_its_streams() -> None:
    hanging = Hanging()
    merged = merge([tell("a", "b"), hanging.deltas()])
    first = await anext(merged)
    again = replay(first, merged)
    assert (await anext(again))[1].text == "a"
    await again.aclose()
    assert hanging.is_closed
