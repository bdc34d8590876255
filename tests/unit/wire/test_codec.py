"""Every message survives its frame, and what is none is refused without a word of its content."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, get_args
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_wire.codec import MAX_INLINE, Codec, MessageError
from ernie_wire.messages import CODEC, GenerateRequest, Message, Output, Outputs
from fakes.wire_values import values_of


@pytest.mark.parametrize("kind", get_args(Message))
@settings(max_examples=30)
@given(data=st.data())
def test_every_message_survives_its_frame(data: st.DataObject, kind: type[Message]) -> None:
    message = data.draw(values_of(kind))
    with patch("ernie_wire.codec.MAX_INLINE", 2):
        header, buffers = CODEC.encode(message)
    came = CODEC.decode(json.loads(json.dumps(header)), buffers)
    assert came == message
    assert repr(came) == repr(message)  # 1 == 1.0 == True, and [] is no tuple


def test_an_output_carries_only_what_it_has() -> None:
    header, buffers = CODEC.encode(Outputs((Output("a", "x", (1,)),)))
    assert json.loads(json.dumps(header)) == {
        "kind": "Outputs",
        "outputs": [{"request_id": "a", "text": "x", "token_ids": [1]}],
    }
    assert not buffers


@dataclass(frozen=True)
class Parcel:
    label: str
    parts: tuple[bytes, ...] = ()
    numbers: tuple[int, ...] | None = None


PARCELS = Codec(Parcel)


def test_what_is_long_travels_raw() -> None:
    long = bytes(range(256))
    header, buffers = PARCELS.encode(Parcel("a", (b"\xff", long), tuple(range(MAX_INLINE + 1))))
    assert json.loads(json.dumps(header)) == {
        "kind": "Parcel",
        "label": "a",
        "parts": ["\u00ff", 0],
        "numbers": 1,
    }
    assert [len(buffer) for buffer in buffers] == [256, 8 * (MAX_INLINE + 1)]


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({}, "'kind'"),
        ({"kind": "Nonsense"}, "Nonsense"),
        ({"kind": []}, "unhashable"),
        ({"kind": "Parcel"}, "label"),
        ({"kind": "Parcel", "label": "a", "more": 1}, "more"),
        ({"kind": "Parcel", "label": 7}, "int .*str"),
        ({"kind": "Parcel", "label": None}, "NoneType .*str"),
        ({"kind": "Parcel", "label": "a", "parts": "b"}, "str .*list"),
        ({"kind": "Parcel", "label": "a", "parts": [True]}, "bool .*str"),
        ({"kind": "Parcel", "label": "a", "parts": ["\u0100"]}, "latin-1"),
        ({"kind": "Parcel", "label": "a", "parts": [1]}, "out of range"),
        ({"kind": "Parcel", "label": "a", "numbers": 0}, "multiple"),
        ({"kind": "Parcel", "label": "a", "numbers": [1, 2.0]}, "float .*int"),
    ],
)
def test_what_is_no_message_is_refused(values: dict[str, Any], cause: str) -> None:
    with pytest.raises(MessageError, match=cause):
        PARCELS.decode(values, [b"123"])


def test_a_refusal_does_not_repeat_a_prompt() -> None:
    with pytest.raises(MessageError) as caught:
        CODEC.decode({"kind": "GenerateRequest", "request_id": "r", "input_ids": "secret"}, [])
    assert "secret" not in str(caught.value)


def test_a_field_of_a_type_that_cannot_travel_is_found_at_once() -> None:
    @dataclass(frozen=True)
    class Odd:
        values: set[int]

    with pytest.raises(KeyError):
        Codec(Odd)


def test_a_request_is_checked_where_it_arrives() -> None:
    header, buffers = CODEC.encode(GenerateRequest("r", text_input="a"))
    with pytest.raises(Exception, match="exactly one"):
        CODEC.decode({**header, "messages": "{}"}, buffers)
