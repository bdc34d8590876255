"""The gRPC side by itself: cancellation, the watch over quiet streams, several Tritons."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import Any

import pytest

from ernie_frontend.settings import Settings
from ernie_frontend.triton.call_errors import TritonUnreachable
from ernie_frontend.triton.client import TritonClient
from ernie_frontend.triton.output_streams import collect
from ernie_frontend.triton.pool import TritonPool
from ernie_wire import tensors
from ernie_wire.errors import EngineCrashed, InternalError, ModelUnavailable
from ernie_wire.messages import GenerateRequest, Output
from ernie_wire.sampling import SamplingParameters
from fakes.triton_grpc import EventLoopThread, FakeTriton, Inference, Response, hang_after_first
from support.free_ports import free_port

pytest_plugins = ("support.frontend_server",)

NOWHERE = "127.0.0.1:1"  # a reserved port: nobody listens


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"request_id": "r", "text_input": "Hi", "stream": True, **fields})


def settings(*urls: str, **fields: Any) -> Settings:
    return Settings(triton_urls=urls, **fields)


async def collected(url: str, wire: GenerateRequest, **fields: Any) -> Output:
    client = TritonClient(url, settings(url, **fields))
    try:
        [output] = await collect([client.generate("ernie-tiny", wire)])
        return output
    finally:
        await client.close()


def test_the_tensors_of_a_request(triton_loop: EventLoopThread, triton: FakeTriton) -> None:
    wire = request(
        text_input=None, input_ids=(1, 2), return_token_ids=True, sampling=SamplingParameters(max_tokens=3)
    )
    answer = triton_loop.run(collected(triton.url, wire))
    prompt = (1, 2, 3, 4, 5, 6, 7), "User: Hi\nA:"
    assert answer == Output("r", "Beijing.", (100, 101, 102), 7, 4, "stop", None, *prompt, num_output_tokens=3)
    assert triton.inferences[0].inputs == {
        "request_id": "r",
        "stream": True,
        "return_token_ids": True,
        "return_outputs": True,
        "sampling_parameters": '{"max_tokens": 3}',
        "input_ids": [1, 2],
    }


def test_every_field_of_a_request_has_a_tensor_of_its_name(
    triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    names = {spec.name for spec in tensors.FIELDS}
    assert names == {field.name for field in fields(GenerateRequest)} - {"sampling"}
    flags = {spec.name: True for spec in tensors.FIELDS if spec.datatype == "TYPE_BOOL"}
    values = {"messages": b'{"messages": "\xc3\xa9"}', "media": (b"\x00\xff", b"\n" * 9), "text_input": None}
    more = {"priority": -7, "cache_salt": "s", **flags}
    triton_loop.run(collected(triton.url, request(**values, **more)))
    assert triton.inferences[0].inputs == {
        "request_id": "r",
        "sampling_parameters": "{}",
        "messages": '{"messages": "é"}',
        "media": [b"\x00\xff", b"\n" * 9],
        **more,
        "priority": [-7],
    }


def test_marks_come_with_the_text(triton_loop: EventLoopThread, triton: FakeTriton) -> None:
    async def tags(_: Inference) -> AsyncIterator[Response]:
        counts = {"num_output_tokens": 2, "num_reasoning_tokens": 1}
        marks = [[1, 5, 7], [5, 9, 7]]
        yield {"text_output": "é<nl><nl>", "finish_reason": "", "marks": marks, "prompt_tag": "", **counts}
        yield {"text_output": "<nl>", "finish_reason": "stop", "marks": [[0, 4, 7]], **counts}

    triton.answer = tags
    answer = triton_loop.run(collected(triton.url, request()))
    assert [answer.text[start:end] for start, end, _ in answer.marks] == ["<nl>"] * 3
    assert [mark.token_id for mark in answer.marks] == [7, 7, 7]
    assert (answer.prompt_tag, answer.num_reasoning_tokens) == ("", 2)


async def close_early(url: str, wire: GenerateRequest, **fields: Any) -> None:
    client = TritonClient(url, settings(url, **fields))
    deltas = client.generate("ernie-tiny", wire)
    assert (await anext(deltas)).text == "Bei"
    await deltas.aclose()
    await client.close()


def test_an_answer_left_early_is_cancelled_and_its_stream_read_to_the_end(
    triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    """A call that is cancelled while its last response is on the way leaks, or crashes Triton 2.51."""
    triton.answer = hang_after_first
    triton_loop.run(close_early(triton.url, request()))
    assert triton.cancelled.get_nowait() == "r"
    assert triton.finished.get_nowait() == "r"
    assert triton.aborted.empty()


def test_an_answer_that_nobody_waits_for_yet_is_cancelled_too(
    triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    """The reader is cancelled in the middle of waiting, as a disconnect does before the first delta."""
    triton.answer = hang_after_first

    async def cancel() -> None:
        client = TritonClient(triton.url, settings(triton.url))
        reading = asyncio.create_task(collect([client.generate("ernie-tiny", request(stream=False))]))
        while not triton.inferences:
            await asyncio.sleep(0.005)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await client.close()

    triton_loop.run(cancel())
    assert (triton.cancelled.get_nowait(), triton.finished.get_nowait()) == ("r", "r")
    assert triton.aborted.empty()


def test_a_stream_left_at_its_last_delta_is_read_to_the_end(
    triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    has_left = asyncio.Event()

    async def slow_end(_: Inference) -> AsyncIterator[Response]:
        yield {"text_output": "Bei", "finish_reason": "stop"}
        await has_left.wait()

    async def leave() -> None:
        client = TritonClient(triton.url, settings(triton.url))
        deltas = client.generate("ernie-tiny", request())
        await anext(deltas)
        await deltas.aclose()
        has_left.set()
        await client.close()

    triton.answer = slow_end
    triton_loop.run(leave())
    assert triton.finished.get_nowait() == "r"
    assert triton.cancelled.empty()
    assert triton.aborted.empty()


def test_a_cancel_that_is_faster_than_its_request_is_sent_again(
    triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    asked: list[str] = []

    def miss_two(request_id: str) -> bool:
        asked.append(request_id)
        if len(asked) == 3:
            triton.cancel = None
        return False

    triton.answer, triton.cancel = hang_after_first, miss_two
    triton_loop.run(close_early(triton.url, request()))
    assert asked == ["r"] * 3
    assert (triton.cancelled.get_nowait(), triton.finished.get_nowait()) == ("r", "r")
    assert triton.aborted.empty()


@pytest.mark.parametrize("is_known", [False, True])
def test_a_stream_that_does_not_end_is_cut_after_a_deadline(
    triton_loop: EventLoopThread, triton: FakeTriton, is_known: bool
) -> None:
    triton.answer, triton.cancel = hang_after_first, lambda _: is_known
    triton_loop.run(close_early(triton.url, request(), cancel_deadline_s=0.2))
    assert triton.aborted.get(timeout=10) == "r"


def test_a_control_question_is_asked_to_its_end_whoever_goes_away(
    triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    asked: list[str] = []

    def hear(request_id: str) -> bool:
        asked.append(request_id)
        return True

    async def ask() -> None:
        client = TritonClient(triton.url, settings(triton.url))
        question = asyncio.create_task(client.cancel("ernie-tiny", "r"))
        await asyncio.sleep(0)
        question.cancel()
        await client.close()

    triton.cancel = hear
    triton_loop.run(ask())
    assert asked == ["r"]


def test_many_answers_left_at_once_leave_nothing(triton_loop: EventLoopThread, triton: FakeTriton) -> None:
    num_answers = 500
    triton.answer = hang_after_first

    async def leave_all() -> list[str]:
        client = TritonClient(triton.url, settings(triton.url, cancel_deadline_s=60.0, control_deadline_s=60.0))
        streams = [
            client.generate("ernie-tiny", request(request_id=str(number))) for number in range(num_answers)
        ]
        for stream in streams:
            await anext(stream)
        for stream in streams:
            await stream.aclose()
        await client.close()
        coroutines = [str(task.get_coro()) for task in asyncio.all_tasks()]
        return [coroutine for coroutine in coroutines if "Triton" in coroutine]

    left = triton_loop.run(leave_all(), timeout_s=120)
    assert {triton.finished.get_nowait() for _ in range(num_answers)} == {str(n) for n in range(num_answers)}
    assert triton.aborted.empty()
    assert left == []


def test_a_quiet_stream_of_a_living_model_goes_on(triton_loop: EventLoopThread, triton: FakeTriton) -> None:
    quiet_check_s = 0.02

    async def slow(_: Inference) -> AsyncIterator[Response]:
        await asyncio.sleep(10 * quiet_check_s)
        yield {"text_output": "late", "finish_reason": "stop"}

    triton.answer = slow
    answer = triton_loop.run(collected(triton.url, request(), quiet_check_s=quiet_check_s))
    assert answer.text == "late"


def test_the_watch_ends_streams_of_a_dead_model_not_of_a_slow_one(
    triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    triton.answer = hang_after_first
    triton.health = "Stub process 'x' is not healthy."
    with pytest.raises(EngineCrashed, match="cannot serve"):
        triton_loop.run(collected(triton.url, request(), quiet_check_s=0.02))
    assert triton.cancelled.empty()  # there is nobody to tell


@pytest.mark.timeout(60)
def test_a_stream_of_a_triton_that_answers_nothing_ends_after_a_while(
    triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    triton.answer = hang_after_first
    triton.is_silent = True
    with pytest.raises(TritonUnreachable):
        triton_loop.run(
            collected(triton.url, request(), quiet_check_s=0.02, silence_limit_s=0.1, control_deadline_s=0.05)
        )


def test_one_question_tells_all_quiet_streams_of_a_dead_model(
    triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    """Told one at a time, they would need as many questions as there are streams."""
    num_streams = 16
    triton.answer = hang_after_first
    triton.health = "Stub process 'x' is not healthy."

    async def ask() -> list[object]:
        client = TritonClient(triton.url, settings(triton.url, quiet_check_s=0.5))
        streams = (
            collect([client.generate("ernie-tiny", request(request_id=str(number)))])
            for number in range(num_streams)
        )
        ends = await asyncio.gather(*streams, return_exceptions=True)
        await client.close()
        return list(ends)

    ends = triton_loop.run(ask())
    assert [type(end) for end in ends] == [EngineCrashed] * num_streams
    assert triton.num_health_questions < num_streams / 2


@pytest.mark.parametrize("is_in_flight", [False, True])
def test_a_stub_that_was_started_again_has_lost_its_streams(
    triton_loop: EventLoopThread, triton: FakeTriton, is_in_flight: bool
) -> None:
    """Killed and loaded again between two health questions: only the instance tells."""
    quiet_check_s = 0.02

    async def slow(inference: Inference) -> AsyncIterator[Response]:
        assert isinstance(triton.health, dict)
        triton.health |= {"instance": "second", "in_flight": is_in_flight}
        await asyncio.sleep(20 * quiet_check_s)
        yield {"text_output": "late", "finish_reason": "stop"}

    async def ask() -> Output:
        client = TritonClient(triton.url, settings(triton.url, quiet_check_s=quiet_check_s))
        try:
            await client.health("ernie-tiny")
            return (await collect([client.generate("ernie-tiny", request())]))[0]
        finally:
            await client.close()

    assert isinstance(triton.health, dict)
    triton.health["instance"] = "first"
    triton.answer = slow
    if is_in_flight:
        assert triton_loop.run(ask()).text == "late"
    else:
        with pytest.raises(ModelUnavailable, match="loaded again"):
            triton_loop.run(ask())


def test_full_shared_memory_is_a_503_that_names_no_region(
    triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    async def full(_: Inference) -> AsyncIterator[Response]:
        yield "Failed to increase the shared memory pool size for key 'ernie-triton-abc-1-def' to 1048576"

    triton.answer = full
    with pytest.raises(ModelUnavailable, match="shared memory") as error:
        triton_loop.run(collected(triton.url, request()))
    assert error.value.status == 503
    assert "ernie-triton-abc" not in error.value.message


def test_control_errors(triton_loop: EventLoopThread, triton: FakeTriton) -> None:
    triton.models["odd"] = "strange words"

    async def ask(url: str, model: str) -> None:
        client = TritonClient(url, settings(url))
        try:
            await client.describe(model)
        finally:
            await client.close()

    with pytest.raises(InternalError, match="could not answer"):
        triton_loop.run(ask(triton.url, "odd"))
    with pytest.raises(ModelUnavailable, match="cannot serve"):
        triton_loop.run(ask(triton.url, "absent"))
    with pytest.raises(TritonUnreachable, match="cannot be reached"):
        triton_loop.run(ask(NOWHERE, "ernie-tiny"))


def test_a_pool_goes_round_and_passes_over_the_unreachable(
    triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    second = FakeTriton()
    triton_loop.run(second.start())

    async def ask() -> None:
        pool = TritonPool(settings(triton.url, NOWHERE, second.url))
        for _ in range(6):
            await collect([pool.generate("ernie-tiny", request())])
        await pool.close()

    triton_loop.run(ask())
    triton_loop.run(second.stop())
    assert len(triton.inferences) + len(second.inferences) == 6
    assert min(len(triton.inferences), len(second.inferences)) >= 2


def test_a_pool_without_a_reachable_triton_names_them_in_the_log(
    triton_loop: EventLoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask() -> None:
        pool = TritonPool(settings(NOWHERE))
        try:
            await collect([pool.generate("ernie-tiny", request())])
        finally:
            await pool.close()

    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        triton_loop.run(ask())
    assert NOWHERE in caplog.text


async def _until_reached(client: TritonClient) -> int:
    """Ask until it answers; return how often it did not."""
    for num_failed in itertools.count():
        with contextlib.suppress(TritonUnreachable):
            await client.ready_models()
            return num_failed
        await asyncio.sleep(0.05)
    raise AssertionError


def test_an_outage_is_two_lines_in_the_log(
    triton_loop: EventLoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    async def two_outages() -> list[str]:
        triton, port = FakeTriton(), free_port()
        await triton.start(port)
        client = TritonClient(triton.url, settings(triton.url))
        wanted = []
        for _ in range(2):
            await triton.stop()
            for _ in range(3):
                with pytest.raises(TritonUnreachable):
                    await collect([client.generate("ernie-tiny", request())])
            await triton.start(port)
            num_failed = 3 + await _until_reached(client)
            wanted += [
                rf"Triton at {triton.url} failed r: [\w ]+",
                rf"Triton at {triton.url} answers again; {num_failed} calls failed",
            ]
        await client.close()
        await triton.stop()
        return wanted

    wanted = triton_loop.run(two_outages())
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == len(wanted)
    assert all(map(re.fullmatch, wanted, lines)), lines
