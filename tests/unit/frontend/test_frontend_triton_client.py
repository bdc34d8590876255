"""The gRPC side by itself: cancellation, the watch over quiet streams, several Tritons."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ernie_frontend.generation import Delta, collect
from ernie_frontend.settings import Settings
from ernie_frontend.triton_client import TritonClient, TritonUnreachable
from ernie_frontend.triton_pool import TritonPool
from ernie_wire.errors import EngineCrashed, InternalError, ModelUnavailable
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters
from fakes.triton_grpc import EventLoopThread, FakeTriton, Inference, Response, hang_after_first

pytest_plugins = ("fakes.frontend_server",)

NOWHERE = "127.0.0.1:1"  # a reserved port: nobody listens


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"request_id": "r", "text_input": "Hi", "stream": True, **fields})


def settings(*urls: str, **fields: Any) -> Settings:
    return Settings(triton_urls=urls, **fields)


async def collected(url: str, wire: GenerateRequest, **fields: Any) -> Delta:
    client = TritonClient(url, settings(url, **fields))
    try:
        return await collect(client.generate("ernie-tiny", wire))
    finally:
        await client.close()


def test_the_tensors_of_a_request(triton_loop: EventLoopThread, triton: FakeTriton) -> None:
    wire = request(
        text_input=None, input_ids=(1, 2), return_prompt=True, sampling=SamplingParameters(max_tokens=3)
    )
    answer = triton_loop.run(collected(triton.url, wire))
    assert answer == Delta("Beijing.", (100, 101, 102), 3, 7, "stop", (1, 2, 3, 4, 5, 6, 7), "User: Hi\nA:", 4)
    assert triton.inferences[0].inputs == {
        "request_id": "r",
        "stream": True,
        "exclude_input_in_output": True,
        "return_finish_reason": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
        "return_token_ids": True,
        "return_marks": True,
        "sampling_parameters": '{"max_tokens": 3}',
        "input_ids": [1, 2],
    }


def test_marks_come_with_the_text(triton_loop: EventLoopThread, triton: FakeTriton) -> None:
    async def tags(_: Inference) -> AsyncIterator[Response]:
        yield {"text_output": "é<nl><nl>", "finish_reason": "", "marks": [[1, 5, 7], [5, 9, 7]]}
        yield {"text_output": "<nl>", "finish_reason": "stop", "marks": [[0, 4, 7]]}

    triton.answer = tags
    answer = triton_loop.run(collected(triton.url, request()))
    assert [answer.text[start:end] for start, end, _ in answer.marks] == ["<nl>"] * 3
    assert [mark.token_id for mark in answer.marks] == [7, 7, 7]


def test_closing_early_cancels_by_both_ways(triton_loop: EventLoopThread, triton: FakeTriton) -> None:
    triton.answer = hang_after_first

    async def close_early() -> None:
        client = TritonClient(triton.url, settings(triton.url))
        deltas = client.generate("ernie-tiny", request())
        assert (await anext(deltas)).text == "Bei"
        await deltas.aclose()
        await client.close()

    triton_loop.run(close_early())
    assert triton.cancelled.get(timeout=10) == "r"
    assert triton.aborted.get(timeout=10) == "r"


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
    with pytest.raises(EngineCrashed, match="not healthy"):
        triton_loop.run(collected(triton.url, request(), quiet_check_s=0.02))
    assert triton.cancelled.empty()  # there is nobody to tell


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
            collect(client.generate("ernie-tiny", request(request_id=str(number))))
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

    async def ask() -> Delta:
        client = TritonClient(triton.url, settings(triton.url, quiet_check_s=quiet_check_s))
        try:
            await client.control("ernie-tiny", {"op": "health"})
            return await collect(client.generate("ernie-tiny", request()))
        finally:
            await client.close()

    assert isinstance(triton.health, dict)
    triton.health["instance"] = "first"
    triton.answer = slow
    if is_in_flight:
        assert triton_loop.run(ask()).text == "late"
    else:
        with pytest.raises(EngineCrashed, match="loaded again"):
            triton_loop.run(ask())


def test_control_errors(triton_loop: EventLoopThread, triton: FakeTriton) -> None:
    triton.models["odd"] = "strange words"

    async def ask(url: str, model: str) -> None:
        client = TritonClient(url, settings(url))
        try:
            await client.control(model, {"op": "describe"})
        finally:
            await client.close()

    with pytest.raises(InternalError, match="strange words"):
        triton_loop.run(ask(triton.url, "odd"))
    with pytest.raises(ModelUnavailable, match="unknown model"):
        triton_loop.run(ask(triton.url, "absent"))
    with pytest.raises(TritonUnreachable, match=NOWHERE):
        triton_loop.run(ask(NOWHERE, "ernie-tiny"))


def test_a_pool_goes_round_and_passes_over_the_unreachable(
    triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    second = FakeTriton()
    triton_loop.run(second.start())

    async def ask() -> None:
        pool = TritonPool(settings(triton.url, NOWHERE, second.url))
        for _ in range(6):
            await collect(pool.generate("ernie-tiny", request()))
        await pool.close()

    triton_loop.run(ask())
    triton_loop.run(second.stop())
    assert len(triton.inferences) + len(second.inferences) == 6
    assert min(len(triton.inferences), len(second.inferences)) >= 2


def test_a_pool_without_a_reachable_triton_names_them(triton_loop: EventLoopThread) -> None:
    async def ask() -> None:
        pool = TritonPool(settings(NOWHERE))
        try:
            await collect(pool.generate("ernie-tiny", request()))
        finally:
            await pool.close()

    with pytest.raises(ModelUnavailable, match=NOWHERE):
        triton_loop.run(ask())
