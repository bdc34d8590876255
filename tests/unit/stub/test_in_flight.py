"""The table of requests: a late notice of one client never harms another."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from ernie_stub.in_flight import InFlight
from ernie_stub.response_stream import ResponseStream
from ernie_wire.errors import ModelUnavailable
from ernie_wire.messages import Cancel, GenerateRequest, Message, Output
from fakes.triton_python_backend_utils import ResponseSender


class Sent(list[Message]):
    """An engine that only takes messages."""

    def send(self, message: Message) -> None:
        self.append(message)


def submit(table: InFlight, request_id: str) -> ResponseStream:
    request = GenerateRequest(request_id, "hi")
    answer = ResponseStream(request, ResponseSender(), lambda _: None, table.abandon)
    table.submit(request, answer)
    return answer


def cancelled(engine: Sent) -> list[str]:
    return [message.request_id for message in engine if isinstance(message, Cancel)]


def test_a_client_that_has_gone_stops_its_own_request() -> None:
    table, engine = InFlight(), Sent()
    table.connect(engine)
    submit(table, "other")
    answer = submit(table, "r")
    table.abandon(answer)
    assert cancelled(engine) == ["r#2"]
    assert not table.holds("r")
    assert table.holds("other")


def test_the_end_of_a_first_answer_leaves_a_second_request_with_its_id_alone() -> None:
    table, engine = InFlight(), Sent()
    table.connect(engine)
    first = submit(table, "r")
    table.deliver([Output("r#1", "a", finish_reason="stop")])
    submit(table, "r")
    table.abandon(first)
    assert cancelled(engine) == []
    assert table.holds("r")


class Gone:
    """An engine that has taken a message, of which nothing is here any more."""

    def send(self, message: Message) -> None: ...


@pytest.mark.parametrize(
    ("name", "prompt"),
    [("text_input", "Hi" * 99), ("input_ids", tuple(range(99))), ("messages", bytes(99))],
    ids=["text_input", "input_ids", "messages"],
)
@pytest.mark.parametrize("waits", [False, True])
def test_a_prompt_is_not_kept_once_the_engine_has_it(name: str, prompt: Any, waits: bool) -> None:
    table, medium = InFlight(), bytes(100)
    table.hold() if waits else table.connect(Gone())
    before = sys.getrefcount(prompt), sys.getrefcount(medium)
    request = GenerateRequest(
        "r", exclude_input_in_output=True, return_token_ids=True, media=(medium,), **{name: prompt}
    )
    answer = ResponseStream(request, ResponseSender(), lambda _: None, table.abandon)
    table.submit(request, answer)
    del request
    table.connect(Gone())
    assert (sys.getrefcount(prompt), sys.getrefcount(medium)) == before
    assert table.holds(answer.request_id)


def test_what_waits_for_an_engine_is_bounded_in_number_and_bytes() -> None:
    table = InFlight(max_held=3, max_held_bytes=100)
    table.hold()
    media = (b"x" * 60, b"y" * 60)

    def ask(request_id: str, media: tuple[bytes, ...] = ()) -> None:
        request = GenerateRequest(request_id, messages=b"{}", media=media)
        table.submit(request, ResponseStream(request, ResponseSender(), lambda _: None, table.abandon))

    ask("large", media)  # alone it may be as large as it likes
    with pytest.raises(ModelUnavailable, match=r"1 requests? .*122 bytes"):
        ask("small")
    assert table.cancel("large")
    for request_id in "abc":
        ask(request_id)
    with pytest.raises(ModelUnavailable, match=r"3 requests .*6 bytes"):
        ask("d")
    table.connect(Sent())
    ask("large", media)
