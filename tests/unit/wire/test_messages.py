"""Messages survive their frames; controls are checked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ernie_wire.errors import InvalidValue
from ernie_wire.logprobs import TokenLogprobs
from ernie_wire.messages import GenerateRequest, Output, join_outputs

LOGPROBS = TokenLogprobs(7, -0.25, b"a", 2)
SKIPPED = TokenLogprobs(2, -0.5, b"</s>", 1, is_skipped=True)


def test_the_end_of_a_request() -> None:
    assert not Output("r", "x").is_last
    assert Output("r", finish_reason="stop").is_last
    assert Output("r", error="timeout: x").is_last


def test_joined_outputs_have_the_prompt_of_the_first_and_the_end_of_the_last() -> None:
    first = Output("r", "a", (1,), 2, 1, None, None, (5,), "p", num_output_tokens=1, prompt_tag="<think>")
    last = Output("r", "b", (2, 3), error="internal_error: x", num_output_tokens=2)
    both = Output("r", "ab", (1, 2, 3), 2, 1, None, "internal_error: x", (5,), "p", num_output_tokens=3)
    both = replace(both, num_reasoning_tokens=3, prompt_tag="<think>")
    first, last = replace(first, num_reasoning_tokens=1), replace(last, num_reasoning_tokens=2)
    assert join_outputs([first, last]) == both
    assert join_outputs([first]) == first
    scored = Output("r", "b", (2,), logprobs=(LOGPROBS,), prompt_logprobs=(None, SKIPPED))
    joined = join_outputs([first, scored, scored])
    assert (joined.logprobs, joined.prompt_logprobs) == ((LOGPROBS, LOGPROBS), (None, SKIPPED))
    seen = join_outputs([replace(first, num_image_tokens=6, num_video_tokens=4), last])
    assert (seen.num_image_tokens, seen.num_video_tokens) == (6, 4)


@pytest.mark.parametrize("prompts", [{}, {"text_input": "a", "input_ids": (1,)}])
def test_a_request_has_exactly_one_prompt(prompts: dict[str, object]) -> None:
    with pytest.raises(InvalidValue, match="exactly one"):
        GenerateRequest("r", **prompts)  # type: ignore[arg-type]
