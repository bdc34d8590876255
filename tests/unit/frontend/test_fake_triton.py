"""The fake Triton itself, seen through the plain tritonclient."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton

from fakes.triton_grpc import FakeTriton, hang_after_first

LOOPBACK = [("grpc.enable_http_proxy", 0)]


def _text(name: str, value: str) -> triton.InferInput:
    tensor = triton.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value.encode()], dtype=np.object_))
    return tensor


def _stream_flag() -> triton.InferInput:
    tensor = triton.InferInput("stream", [1], "BOOL")
    tensor.set_data_from_numpy(np.array([True]))
    return tensor


async def _ask(url: str, model: str, *inputs: triton.InferInput) -> list[Any]:
    async def one() -> Any:
        yield {"model_name": model, "inputs": list(inputs)}

    async with triton.InferenceServerClient(url, channel_args=LOOPBACK) as client:
        return [(result, error) async for result, error in client.stream_infer(one())]


async def test_tells_its_pieces_one_by_one() -> None:
    fake = FakeTriton()
    await fake.start()
    answers = await _ask(fake.url, "ernie-tiny", _text("text_input", "Hi"), _stream_flag())
    await fake.stop()
    texts = [result.as_numpy("text_output")[0].decode() for result, _ in answers]
    reasons = [result.as_numpy("finish_reason")[0].decode() for result, _ in answers]
    assert texts == ["Bei", "jing", "."]
    assert reasons == ["", "", "stop"]
    assert fake.inferences[0].inputs == {"text_input": "Hi", "stream": True}


async def test_answers_control() -> None:
    fake = FakeTriton()
    await fake.start()
    [(described, _)] = await _ask(fake.url, "ernie-tiny", _text("control", '{"op": "describe"}'))
    [(cancelled, _)] = await _ask(
        fake.url, "ernie-tiny", _text("control", '{"op": "cancel", "request_id": "r1"}')
    )
    await fake.stop()
    assert json.loads(described.as_numpy("control_output")[0])["engine"]["vocab_size"] == 1000
    assert json.loads(cancelled.as_numpy("control_output")[0]) == {"cancelled": False}
    assert fake.inferences == []


async def test_a_cancel_ends_the_stream_with_an_error() -> None:
    fake = FakeTriton(answer=hang_after_first)
    await fake.start()
    asking = asyncio.create_task(
        _ask(fake.url, "ernie-tiny", _text("text_input", "Hi"), _text("request_id", "r1"))
    )
    while not fake.inferences:
        await asyncio.sleep(0.005)
    await _ask(fake.url, "ernie-tiny", _text("control", '{"op": "cancel", "request_id": "r1"}'))
    [(_, error)] = await asking
    await fake.stop()
    assert error.message().startswith("cancelled: ")
    assert (fake.cancelled.get_nowait(), fake.finished.get_nowait()) == ("r1", "r1")


async def test_an_unknown_model_is_an_error_message() -> None:
    fake = FakeTriton()
    await fake.start()
    [(_, error)] = await _ask(fake.url, "other", _text("text_input", "Hi"))
    await fake.stop()
    assert "unknown model" in error.message()


async def test_notes_a_stream_that_its_client_cancels() -> None:
    fake = FakeTriton(answer=hang_after_first)
    await fake.start()

    async def one() -> Any:
        yield {
            "model_name": "ernie-tiny",
            "inputs": [_text("text_input", "Hi"), _stream_flag(), _text("request_id", "r2")],
        }

    async with triton.InferenceServerClient(fake.url, channel_args=LOOPBACK) as client:
        call = client.stream_infer(one())
        await call.__anext__()
        call.cancel()
        assert await asyncio.to_thread(fake.aborted.get, timeout=10) == "r2"
    await fake.stop()
