"""Outputs that reach the frontend past Triton, from the stub's own socket and beside a scripted Triton."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from ernie_frontend.settings import Settings
from ernie_frontend.triton.client import TritonClient
from ernie_frontend.triton.stream import TritonStream
from ernie_wire.errors import EngineCrashed, QueueFull
from ernie_wire.messages import GenerateRequest, Output
from fakes import triton_python_backend_utils
from fakes.triton_grpc import (
    EventLoopThread,
    FakeTriton,
    Inference,
    Response,
    hang_after_first,
    ready_model,
    tell,
)

sys.modules.setdefault("triton_python_backend_utils", triton_python_backend_utils)

from ernie_stub.local_outputs import LocalOutputs  # noqa: E402 - after the module that Triton provides

pytest_plugins = ("support.frontend_server",)


@pytest.fixture
def stub(triton: FakeTriton) -> Iterator[LocalOutputs]:
    """Return the socket of a stub, which the model's description has."""
    stub = LocalOutputs(lambda _: None)
    triton.models = {"ernie-tiny": {**ready_model(), "outputs_socket": stub.address}}
    yield stub
    stub.close()


async def outputs(url: str, request_id: str = "r", num_requests: int = 1) -> list[list[Output]]:
    """Return the outputs of concurrent requests, of which each one comes separately."""
    client = TritonClient(url, Settings(triton_urls=(url,)))

    async def one(name: str) -> list[Output]:
        return [each async for each in client.generate("ernie-tiny", GenerateRequest(name, "Hi", stream=True))]

    try:
        await client.describe("ernie-tiny")
        names = [f"{request_id}{number}" for number in range(num_requests)]
        return await asyncio.gather(*(one(name) for name in names))
    finally:
        await client.close()


def delivering(stub: LocalOutputs, *delivered: Output) -> Any:
    """Return an ``answer`` of Triton: nothing, while the connection gets the outputs."""

    async def answer(inference: Inference) -> AsyncIterator[Response]:
        frontend = stub.frontend(inference.inputs["deliver_to"])
        assert frontend is not None
        for output in delivered:
            frontend.put(inference.inputs["request_id"], output)
            frontend.flush()
            await asyncio.sleep(0.01)
        return
        yield {}

    return answer


def test_outputs_past_triton(triton_loop: EventLoopThread, triton: FakeTriton, stub: LocalOutputs) -> None:
    triton.answer = delivering(
        stub, Output("", "Bei"), Output("", "jing", (7,)), Output("", finish_reason="stop")
    )
    for number, answer in enumerate(triton_loop.run(outputs(triton.url, num_requests=3))):
        assert "".join(each.text for each in answer) == "Beijing"
        assert {each.request_id for each in answer} == {f"r{number}"}
        assert answer[-1].finish_reason == "stop"


class Call:
    """A call of Triton that has no responses, and ends when it is cancelled."""

    def __init__(self) -> None:
        self._end = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._until_cancelled()

    async def _until_cancelled(self) -> AsyncIterator[Any]:
        await self._end.wait()
        return
        yield None

    def cancel(self) -> bool:
        self._end.set()
        return True


async def ended_stream() -> TritonStream:
    """Return a stream whose call has ended just now: nobody has been notified yet."""
    call = Call()
    stream = TritonStream(call, is_delivered=True)
    call.cancel()
    while not stream.is_over:
        await asyncio.sleep(0)
    return stream


async def test_outputs_may_come_one_by_one_after_the_end_of_the_call() -> None:
    stream, texts = await ended_stream(), list[str]()
    loop = asyncio.get_running_loop()
    loop.call_later(0.01, stream.deliver, Output("r", "Bei"))
    async for output in stream:
        assert isinstance(output, Output)
        texts.append(output.text)
        if output.is_last:
            break
        loop.call_later(0.01, stream.deliver, Output("r", "jing", finish_reason="stop"))
    assert texts == ["Bei", "jing"]


async def test_a_failure_ends_the_wait_for_a_last_output() -> None:
    stream = await ended_stream()
    asyncio.get_running_loop().call_later(0.01, stream.fail, EngineCrashed("died"))
    with pytest.raises(EngineCrashed, match="died"):
        await anext(stream)


async def test_what_a_slow_consumer_leaves_is_joined() -> None:
    stream = TritonStream(Call(), is_delivered=True)
    for number in range(1000):
        stream.deliver(Output("r", f"{number},", (number,), num_output_tokens=1))
        assert len(stream._delivered) < 64
    output = await anext(stream)
    assert isinstance(output, Output)
    assert (output.token_ids, output.num_output_tokens) == (tuple(range(1000)), 1000)
    assert output.text == "".join(f"{number}," for number in range(1000))
    await stream.end(0)


def test_a_last_output_may_come_after_the_end_of_the_call(
    triton_loop: EventLoopThread, triton: FakeTriton, stub: LocalOutputs
) -> None:
    async def late(inference: Inference) -> AsyncIterator[Response]:
        frontend = stub.frontend(inference.inputs["deliver_to"])
        assert frontend is not None
        frontend.put(inference.inputs["request_id"], Output("", "late", finish_reason="stop"))
        asyncio.get_running_loop().call_later(0.2, frontend.flush)
        return
        yield {}

    triton.answer = late
    assert triton_loop.run(outputs(triton.url)) == [[Output("r0", "late", finish_reason="stop")]]


def test_an_error_past_triton_comes_after_the_text_before_it(
    triton_loop: EventLoopThread, triton: FakeTriton, stub: LocalOutputs
) -> None:
    texts: list[str] = []

    async def ask() -> None:
        client = TritonClient(triton.url, Settings(triton_urls=(triton.url,)))
        try:
            await client.describe("ernie-tiny")
            request = GenerateRequest("r", "Hi", stream=True)
            async for output in client.generate("ernie-tiny", request):
                texts.append(output.text)  # noqa: PERF401 - which keeps what comes before an error
        finally:
            await client.close()

    error = QueueFull("no room").to_line()
    triton.answer = delivering(stub, Output("", "Bei"), Output("", "jing", error=error))
    with pytest.raises(QueueFull, match="no room"):
        triton_loop.run(ask())
    assert "".join(texts) == "Beijing"


def test_an_error_of_triton_ends_a_request_that_has_a_connection(
    triton_loop: EventLoopThread, triton: FakeTriton, stub: LocalOutputs
) -> None:
    async def refuse(_: Inference) -> AsyncIterator[Response]:
        yield QueueFull("no room").to_line()

    triton.answer = refuse
    with pytest.raises(QueueFull, match="no room"):
        triton_loop.run(outputs(triton.url))


def test_a_stub_that_dies_fails_its_requests_at_once(
    triton_loop: EventLoopThread, triton: FakeTriton, stub: LocalOutputs
) -> None:
    async def die(inference: Inference) -> AsyncIterator[Response]:
        frontend = stub.frontend(inference.inputs["deliver_to"])
        assert frontend is not None
        frontend.put(inference.inputs["request_id"], Output("", "Bei"))
        frontend.flush()
        stub.close()
        async for response in hang_after_first(inference):
            if inference.inputs.get("never"):
                yield response

    triton.answer = die
    with pytest.raises(EngineCrashed, match="died while it answered"):
        triton_loop.run(outputs(triton.url))


def test_a_stub_on_another_machine_answers_through_triton(
    triton_loop: EventLoopThread, triton: FakeTriton
) -> None:
    triton.models = {"ernie-tiny": {**ready_model(), "outputs_socket": "ernie-outputs-elsewhere"}}
    triton.answer = tell
    [answer] = triton_loop.run(outputs(triton.url))
    assert "".join(each.text for each in answer) == "Beijing."
    assert "deliver_to" not in triton.inferences[0].inputs
