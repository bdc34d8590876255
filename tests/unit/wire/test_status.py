"""The questions in control and their answers, also between versions that differ by a field."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from ernie_wire.codec import MessageError
from ernie_wire.errors import InvalidValue
from ernie_wire.status import Cancelled, Control, Health, Stage, Status, answer_text, parse_control, read_answer
from fakes.descriptions import description
from fakes.wire_values import values_of


@pytest.mark.parametrize("control", [Control("describe"), Control("cancel", "r"), Control("health", "r")])
def test_a_question_survives_its_text(control: Control) -> None:
    assert parse_control(control.to_text()) == control


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"op": "x"}',
        '{"op": ["cancel"]}',
        '{"op": "cancel"}',
        '{"op": "cancel", "request_id": 1}',
        '{"op": "cancel", "request_id": null}',
        '{"op": "health", "request_id": 1}',
    ],
)
def test_what_is_no_question_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_control(text)
    assert caught.value.param == "control"


@given(values_of(Status))
def test_every_status_survives_its_text(status: Status) -> None:
    assert read_answer(Status, answer_text(status)) == status


@given(values_of(Health))
def test_every_health_survives_its_text(health: Health) -> None:
    assert read_answer(Health, answer_text(health)) == health


def test_an_answer_tells_everything_but_what_was_not_asked() -> None:
    assert json.loads(answer_text(Cancelled(True))) == {"cancelled": True}
    told = json.loads(answer_text(Health(state="ready")))
    assert (told["running"], told["alive_age_s"]) == (0, None)
    assert "in_flight" not in told
    assert json.loads(answer_text(Health(state="ready", in_flight=False)))["in_flight"] is False


def test_an_answer_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    status = Status("ready", engine=description(startup=(Stage("weights", 2.5, 7),)))
    told = json.loads(answer_text(status))
    for part in (told, told["engine"], told["engine"]["startup"][0]):
        part["later"] = {}
    assert read_answer(Status, json.dumps(told)) == status


@pytest.mark.parametrize("text", ["", "7", "[1]", '"kind"', '{"cancelled": 1}'])
def test_what_is_no_answer_is_refused(text: str) -> None:
    with pytest.raises(MessageError):
        read_answer(Cancelled, text)


def test_an_answer_that_lacks_what_is_needed_is_refused() -> None:
    told = json.loads(answer_text(Status("ready", engine=description())))
    del told["engine"]["vocab_size"]
    with pytest.raises(MessageError, match="vocab_size"):
        read_answer(Status, json.dumps(told))
