"""Gathering outputs: whole answers, several at once, and what happens to the others when one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from ernie_frontend.triton.output_streams import (
    Item,
    OutputStream,
    collect,
    merge,
    rechunk,
)
from ernie_wire.errors import EngineCrashed, InvalidValue
from ernie_wire.marked_text import Mark
from ernie_wire.messages import Output


async def tell(*texts: str) -> OutputStream:
    for index, text in enumerate(texts):
        reason = "stop" if index == len(texts) - 1 else None
        prompt_ids = (9,) if index == 0 else None
        yield Output("r", text, (index,), 5, 0, reason, prompt_ids=prompt_ids, num_output_tokens=1)


class Hanging:
    """A generation that never answers and tells when it is closed."""

    def __init__(self) -> None:
        self.is_closed = False

    async def outputs(self) -> OutputStream:
        try:
            await asyncio.Event().wait()
            yield Output("r")
        finally:
            self.is_closed = True


async def fail() -> OutputStream:
    raise InvalidValue("no")
    yield Output("r")


async def test_collect_joins() -> None:
    whole = Output("r", "ab", (0, 1), 5, 0, "stop", prompt_ids=(9,), num_output_tokens=2)
    assert await collect([tell("a", "b")]) == [whole]


async def test_marks_move_with_the_text_that_they_are_in() -> None:
    async def tags() -> OutputStream:
        yield Output("r", "a<nl>", marks=(Mark(1, 5, 7),), num_output_tokens=2)
        yield Output("r", "<nl>", marks=(Mark(0, 4, 7),), num_output_tokens=1, finish_reason="stop")

    marks = (Mark(1, 5, 7), Mark(5, 9, 7))
    whole = Output("r", "a<nl><nl>", marks=marks, finish_reason="stop", num_output_tokens=3)
    assert await collect([tags()]) == [whole]
    assert [output async for output in rechunk(tags(), 9)] == [whole]


async def test_rechunk_joins_a_number_of_tokens_again_and_again() -> None:
    assert [output.text async for output in rechunk(tell(*"abcde"), 2)] == ["ab", "cd", "e"]


async def test_collect_reads_to_the_end() -> None:
    has_ended = False

    async def ends_later() -> OutputStream:
        nonlocal has_ended
        yield Output("r", "a", finish_reason="stop")
        has_ended = True

    await collect([ends_later()])
    assert has_ended


async def test_collect_wants_a_finish_reason() -> None:
    async def cut() -> OutputStream:
        yield Output("r", "a")

    with pytest.raises(EngineCrashed):
        await collect([cut()])


async def test_collect_keeps_the_order() -> None:
    answers = await collect([tell("a", "b", "c"), tell("d")])
    assert [answer.text for answer in answers] == ["abc", "d"]


async def test_collect_closes_the_others() -> None:
    hanging = Hanging()
    with pytest.raises(InvalidValue):
        await collect([hanging.outputs(), fail()])
    assert hanging.is_closed


async def test_merge_yields_everything_with_its_index() -> None:
    merged = [(index, output.text) async for index, output in merge([tell("a", "b"), tell("c")])]
    assert sorted(merged) == [(0, "a"), (0, "b"), (1, "c")]


async def test_merge_closes_the_others() -> None:
    hanging = Hanging()
    with pytest.raises(InvalidValue):
        [item async for item in merge([hanging.outputs(), fail()])]
    assert hanging.is_closed


async def test_a_merge_ends_with_a_stream_that_is_cancelled_from_elsewhere() -> None:
    async def cut() -> OutputStream:
        yield Output("r", "a")
        raise asyncio.CancelledError

    for streams in ([cut()], [cut(), Hanging().outputs()], [cut(), tell(*"abcdefgh"), Hanging().outputs()]):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(_everything(streams), 10)


async def _everything(streams: Sequence[OutputStream]) -> list[Item]:
    return [item async for item in merge(streams)]


async def test_closing_a_merge_closes_its_streams() -> None:
    hanging = Hanging()
    merged = merge([tell("a", "b"), hanging.outputs()])
    assert (await anext(merged))[1].text == "a"
    await merged.aclose()
    assert hanging.is_closed


async def test_a_merge_of_one_stream_closes_it() -> None:
    is_closed = False

    async def endless() -> OutputStream:
        nonlocal is_closed
        try:
            while True:
                yield Output("r", "a", num_output_tokens=1)
        finally:
            is_closed = True

    merged = merge([endless()])
    assert [(await anext(merged))[0] for _ in range(3)] == [0, 0, 0]
    await merged.aclose()
    assert is_closed


@pytest.mark.parametrize(("num_streams", "num_tasks"), [(1, 0), (3, 3)])
async def test_outputs_need_no_task_of_their_own(num_streams: int, num_tasks: int) -> None:
    tasks: list[str] = []
    loop = asyncio.get_running_loop()

    def noting(running: asyncio.AbstractEventLoop, work: Any, **named: Any) -> asyncio.Task[Any]:
        tasks.append(str(work))
        return asyncio.Task(work, loop=running, **named)

    loop.set_task_factory(noting)
    merged = [index async for index, _ in merge([tell(*"abcdefgh") for _ in range(num_streams)])]
    assert len(merged) == 8 * num_streams
    assert len(tasks) == num_tasks
