"""The order of a stream's chunks: all choices open in order before any text, whichever answers first."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from ernie_frontend.middleware.request_log import RequestRecord
from ernie_frontend.parsing.answer_parser import JSON_CALLS, AnswerFormat
from ernie_frontend.routes.generation import events
from ernie_frontend.translate.chat_response import CHUNKS as CHAT
from ernie_frontend.translate.completion_response import CHUNKS as COMPLETION
from ernie_frontend.translate.response_context import ResponseContext, UsageCounter
from ernie_frontend.translate.sse import ChunkShape, ChunkWriter, event
from ernie_frontend.triton.output_streams import Item
from ernie_wire.errors import QueueFull
from ernie_wire.messages import Output

HEADER = ResponseContext("id", 0, "m")


def output(text: str, reason: str | None = None, **fields: Any) -> Output:
    return Output("r", text, num_output_tokens=1, num_input_tokens=2, finish_reason=reason, **fields)


async def choices_of(
    shape: ChunkShape, items: list[Item | QueueFull], num_choices: int, header: ResponseContext = HEADER
) -> list[dict[str, Any]]:
    """Return the one choice of each event; an error as it is."""

    async def rest() -> AsyncGenerator[Item, None]:
        for item in items[1:]:
            if isinstance(item, QueueFull):
                raise item
            yield item

    first, record = items[0], RequestRecord("r", "r")
    assert not isinstance(first, QueueFull)
    count = UsageCounter(num_choices)
    writer = ChunkWriter(shape, header, num_choices, count)
    sent = b"".join([part async for part in events(writer, first, rest(), record, count)])
    *made, done, end = sent.split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b"")
    assert record.failed_status == sum(item.status for item in items if isinstance(item, QueueFull))
    assert record.num_output_tokens == sum(not isinstance(item, QueueFull) for item in items)
    decoded = [json.loads(event.removeprefix(b"data: ")) for event in made]
    return [event["choices"][0] if "choices" in event else event for event in decoded]


def text_of(choice: dict[str, Any]) -> str:
    text: str = choice["delta"]["content"] if "delta" in choice else choice["text"]
    return text


@pytest.mark.parametrize("shape", [CHAT, COMPLETION])
async def test_choices_open_in_order_before_any_text(shape: ChunkShape) -> None:
    items: list[Item | QueueFull] = [
        (2, output("c")),
        (0, output("a", "stop")),
        (2, output("C", "stop")),
        (1, output("b", "length")),
    ]
    choices = await choices_of(shape, items, 3)
    assert [(choice["index"], text_of(choice), choice["finish_reason"]) for choice in choices] == [
        (0, "", None),
        (1, "", None),
        (2, "", None),
        (2, "c", None),
        (0, "a", None),
        (0, "", "stop"),
        (2, "C", None),
        (2, "", "stop"),
        (1, "b", None),
        (1, "", "length"),
    ]
    has_role = [choice.get("delta", {}).get("role") == "assistant" for choice in choices]
    assert has_role == [shape is CHAT and place < 3 for place in range(len(choices))]


async def test_what_a_cut_call_leaves_as_text_follows_what_was_sent_of_it() -> None:
    header = ResponseContext("id", 0, "m", form=AnswerFormat(tool_call_parser=JSON_CALLS))
    pieces = ['{"name": "f", "arguments": {"a": "b', "c"]
    items: list[Item | QueueFull] = [(0, output(pieces[0])), (0, output(pieces[1], "length"))]
    _, *choices, end = await choices_of(CHAT, items, 1, header)
    parts = [choice["delta"].get("tool_calls", [{}])[0].get("function", {}) for choice in choices]
    assert [part.get("arguments") for part in parts] == ["", '{"a": "b', "c", None]
    assert [text_of(choice) for choice in choices] == ["", "", "", "".join(pieces)]
    assert end["finish_reason"] == "length"


async def test_a_single_completion_has_no_opening() -> None:
    choices = await choices_of(COMPLETION, [(0, output("a", "stop"))], 1)
    assert [text_of(choice) for choice in choices] == ["a", ""]


async def test_what_is_told_of_the_prompt() -> None:
    """In chat with the openings, since all answers have one prompt; in completions each with its own answer."""
    header = ResponseContext("id", 0, "m", return_token_ids=True)
    items: list[Item | QueueFull] = [
        (1, output("b", "stop", prompt_ids=(7,), prompt_text="p")),
        (0, output("a", "stop", prompt_ids=(5,), prompt_text="q")),
    ]
    chat = await choices_of(CHAT, items, 2, header)
    assert [choice["delta"].get("prompt_token_ids") for choice in chat] == [[7], [7], *[None] * 4]
    completion = await choices_of(COMPLETION, items, 2, header)
    told = [(choice["index"], choice.get("prompt_token_ids")) for choice in completion]
    assert [entry for entry in told if entry[1]] == [(1, [7]), (0, [5])]
    assert [index for index, _ in told[:2]] == [0, 1]


@pytest.mark.parametrize("shape", [CHAT, COMPLETION])
@pytest.mark.parametrize("options", [{}, {"has_usage": True}, {"has_usage": True, "has_running_usage": True}])
def test_a_chunk_has_the_bytes_of_its_whole_object(shape: ChunkShape, options: dict[str, Any]) -> None:
    """Its beginning is made once for all chunks, also if names hold quotes, line ends or other scripts."""
    response = ResponseContext('id"1', 7, 'mo\n"del \u2028 文心', **options)
    usage = UsageCounter()
    writer = ChunkWriter(shape, response, 1, usage)
    for piece in (output("a\n\n"), output('"', "stop")):
        usage.add(0, piece)
        for chunk in writer.events(0, piece).split(b"\n\n")[:-1]:
            decoded = json.loads(chunk.removeprefix(b"data: "))
            assert event(decoded) == chunk + b"\n\n"
            whole = response.to_object(shape.kind, decoded["choices"])
            if options:
                whole["usage"] = usage.to_json() if response.has_running_usage else None
            assert decoded == whole


async def test_an_answer_that_fails_later_fails_in_the_stream() -> None:
    *choices, error = await choices_of(CHAT, [(1, output("b")), QueueFull("full")], 2)
    assert [(choice["index"], text_of(choice)) for choice in choices] == [(0, ""), (1, ""), (1, "b")]
    assert error["error"]["code"] == "queue_full"
