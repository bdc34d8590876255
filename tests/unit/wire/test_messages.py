"""Messages survive their frames; controls are checked."""

from __future__ import annotations

import json

import pytest

from ernie_wire.errors import InvalidValue
from ernie_wire.logprobs import LOWEST_LOGPROB, TokenLogprobs, TopLogprob
from ernie_wire.marked_text import Mark
from ernie_wire.messages import (
    Alive,
    Cancel,
    Fault,
    GenerateRequest,
    Heartbeat,
    Message,
    Output,
    Outputs,
    Ready,
    Shutdown,
    StartFailed,
    Starting,
    Submit,
    from_frame,
    parse_control,
    to_frame,
)
from ernie_wire.sampling import SamplingParameters

LOGPROBS = TokenLogprobs(
    7, -0.25, b"\xe4\xbd", 2, (TopLogprob(3, -0.125, b""), TopLogprob(7, LOWEST_LOGPROB, b"a"))
)
SKIPPED = TokenLogprobs(2, -0.5, b"</s>", 1, is_skipped=True)
MESSAGES: list[Message] = [
    Submit(GenerateRequest("r", text_input="Grüße")),
    Submit(GenerateRequest("r", messages={"messages": [{"role": "user", "content": "hi"}]}, stream=True)),
    Submit(
        GenerateRequest(
            "r",
            input_ids=(1, 2**31 - 1, 0),
            sampling=SamplingParameters(max_tokens=3, stop=("a", "b"), logit_bias={5: 0.5}, logprobs=2),
            return_prompt=True,
            priority=-3,
        )
    ),
    Cancel("r"),
    Shutdown(),
    Ready({"architecture": "A", "modalities": ["text"], "generation_config": {"temperature": 0.0}}),
    StartFailed("tensor x is missing"),
    Starting(),
    Fault("rank 1 is lost"),
    Outputs(()),
    Outputs((Output("a"), Output("b", "text", (1, 2), 3, 1, "stop", None, (4, 5), "prompt"))),
    Outputs((Output("a", token_ids=(7,), logprobs=(LOGPROBS, SKIPPED), prompt_logprobs=(None, LOGPROBS)),)),
    Outputs((Output("a", "é<nl><nl>", (7, 8, 8), marks=(Mark(1, 5, 8), Mark(5, 9, 8))),)),
    Outputs((Output("a", error="timeout: too late"),)),
    Heartbeat(1, 2, 3, 4, 5),
    Alive(),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_its_frame(message: Message) -> None:
    header, buffers = to_frame(message)
    assert from_frame(json.loads(json.dumps(header)), buffers) == message


def test_an_output_carries_only_what_it_has() -> None:
    header, _ = to_frame(Outputs((Output("a", "x", (1,)),)))
    assert header["outputs"] == [{"request_id": "a", "text": "x", "token_ids": (1,)}]


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
