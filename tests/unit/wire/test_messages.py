"""Messages survive their frames; controls are checked."""

from __future__ import annotations

import pytest

from ernie_wire.errors import InvalidValue
from ernie_wire.messages import (
    GenerateRequest,
    Output,
    parse_control,
)


def test_the_end_of_a_request() -> None:
    assert not Output("r", "x").is_last
    assert Output("r", finish_reason="stop").is_last
    assert Output("r", error="timeout: x").is_last


@pytest.mark.parametrize("prompts", [{}, {"text_input": "a", "input_ids": (1,)}])
def test_a_request_has_exactly_one_prompt(prompts: dict[str, object]) -> None:
    with pytest.raises(InvalidValue, match="exactly one"):
        GenerateRequest("r", **prompts)  # type: ignore[arg-type]


def test_controls() -> None:
    assert parse_control('{"op": "describe"}') == {"op": "describe"}
    for text in (
        "{",
        "[]",
        "{}",
        '{"op": "x"}',
        '{"op": "cancel"}',
        '{"op": "cancel", "request_id": 1}',
        '{"op": "health", "request_id": 1}',
    ):
        with pytest.raises(InvalidValue) as caught:
            parse_control(text)
        assert caught.value.param == "control"
