"""Thinking that is too long is closed, whatever the request excludes; what follows has a limit of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.engine.engine import Engine
from ernie_backend.engine.input_processor import InputProcessor
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_wire.messages import GenerateRequest, Output, join_outputs
from ernie_wire.sampling import SamplingParameters
from fakes.scripted_runner import ScriptedRunner
from fakes.sequences import reference_sampler
from support.paths import DENSE
from support.thinking_model import EOS, FORMATS, load_processor, thinking_model

TOKENIZER = Tokenizer.from_directory(DENSE)
THINK, END_OF_THINK = TOKENIZER.encode("<think></think>")
(A,), (NEWLINE,) = TOKENIZER.encode("a"), TOKENIZER.encode("\n")
CLOSINGS = dict.fromkeys(FORMATS, (END_OF_THINK,)) | {"ernie-x1": (NEWLINE, END_OF_THINK, NEWLINE, NEWLINE)}
VOCAB = 640


@pytest.fixture(scope="module")
def processors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, InputProcessor]:
    directories = {form: thinking_model(tmp_path_factory.mktemp(form), form) for form in FORMATS}
    return {
        form: load_processor(directory, max_model_len="600")
        for form, directory in {**directories, "text": DENSE}.items()
    }


def answer(
    processor: InputProcessor,
    script: list[int],
    drafts: list[int] | None = None,
    chat: dict[str, Any] | None = None,
    **sampling: Any,
) -> Output:
    """Return the answer of a model that wants to say the tokens of a script.

    Args:
        processor: of the model.
        script: the tokens.
        drafts: guesses of the answer's tokens, by their places; None: there are none.
        chat: fields of the conversation.
        sampling: parameters of the request.
    """
    messages = json.dumps({"messages": [{"role": "user", "content": "Hi"}], **(chat or {})}).encode()
    parameters = SamplingParameters.from_json({"max_tokens": 24, "temperature": 0, **sampling})
    state = processor.process(GenerateRequest("r", messages=messages, sampling=parameters))
    state.start_mask()
    sequence = state.sequence
    runner = ScriptedRunner(script, len(sequence.prompt_ids), VOCAB)
    sampler = reference_sampler(processor.tokenizer.vocab_size)
    engine = Engine(runner, BlockManager(40, 16), SchedulerLimits(4, 640, 9), sampler)
    assert engine.submit(state) is None
    outputs: list[Output] = []
    while engine.has_work:
        sequence.draft_ids = tuple((drafts or [])[sequence.num_generated :][:3])
        outputs += engine.step()
    return join_outputs(outputs)


def limited(script: list[int], limit: int, closing: tuple[int, ...], max_tokens: int) -> tuple[list[int], int]:
    """Return the tokens of an answer that begins in thinking, and how many of them are thinking."""
    said: list[int] = []
    forced: list[int] = []
    is_thinking, num_reasoning = True, 0
    while len(said) < max_tokens:
        if not forced and is_thinking and num_reasoning >= limit:
            forced = list(closing)
        token_id = forced.pop(0) if forced else script[min(len(said), len(script) - 1)]
        num_reasoning += is_thinking or token_id == THINK
        is_thinking = token_id == THINK or (is_thinking and token_id != END_OF_THINK)
        said.append(token_id)
    return said, num_reasoning


TOKENS = st.lists(st.sampled_from([A, NEWLINE, THINK, END_OF_THINK]), min_size=1, max_size=12)


@given(st.sampled_from(FORMATS), TOKENS, TOKENS, st.integers(1, 10), st.integers(1, 14))
def test_thinking_is_closed_at_its_limit(
    processors: dict[str, InputProcessor],
    form: str,
    script: list[int],
    drafts: list[int],
    limit: int,
    max_tokens: int,
) -> None:
    for guesses in (None, drafts, script):
        fields: dict[str, Any] = {"max_tokens": max_tokens, "reasoning_max_tokens": limit}
        output = answer(processors[form], script, guesses, **fields)
        expected, num_reasoning = limited(script, limit, CLOSINGS[form], max_tokens)
        assert (list(output.token_ids), output.num_reasoning_tokens) == (expected, num_reasoning)
        assert (output.finish_reason, output.error) == ("length", None)


@pytest.mark.parametrize(
    "excluding",
    [
        {"bad_words_token_ids": [END_OF_THINK, NEWLINE]},
        {"bad_words": ["</think>", "\n"]},
        {"allowed_token_ids": [A, EOS]},
        {"logit_bias": {END_OF_THINK: -100, NEWLINE: -100}},
        {"min_tokens": 20, "stop_token_ids": [A + 1]},
        {"repetition_penalty": 1.5, "presence_penalty": 0.2},
        {"temperature": 1.0, "top_k": 1, "seed": 1},
        {"temperature": 2.0, "top_p": 0.9, "min_p": 0.1, "seed": 1},
        {"logprobs": 2},
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_nothing_keeps_thinking_from_its_end(
    processors: dict[str, InputProcessor], form: str, excluding: dict[str, Any]
) -> None:
    closing = CLOSINGS[form]
    output = answer(processors[form], [A], reasoning_max_tokens=4, **excluding)
    assert output.error is None
    if END_OF_THINK not in output.token_ids[:4]:  # chance may close it before
        assert output.token_ids[4 : 4 + len(closing)] == closing
    assert output.num_reasoning_tokens <= 4 + len(closing)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "drafts", [None, [A] * 24, [A, A, END_OF_THINK, A], [A, A, A, NEWLINE, END_OF_THINK] * 4]
)
def test_a_grammar_begins_after_thinking_that_was_closed(
    processors: dict[str, InputProcessor], form: str, drafts: list[int] | None
) -> None:
    fields: dict[str, Any] = {"reasoning_max_tokens": 3, "structured_outputs": {"choice": ["yes"]}}
    output = answer(processors[form], [A], drafts, **fields)
    closing = CLOSINGS[form]
    assert output.token_ids[: 3 + len(closing)] == (A, A, A, *closing)
    content = output.text.partition("</think>")[2].replace("\n", "")
    assert content == ("<response>yes</response>" if form == "ernie-x1" else "yes")
    assert (output.finish_reason, output.error) == ("stop", None)


def test_what_ends_the_answer_ends_it_inside_thinking_too(processors: dict[str, InputProcessor]) -> None:
    fields: dict[str, Any] = {"reasoning_max_tokens": 4}
    for script, asked, num_tokens, reason in (
        ([A, A, EOS], {}, 3, "stop"),
        ([A], {"stop": "aaa"}, 3, "stop"),
        ([A], {"stop": "\n\n"}, 8, "stop"),  # x1's closing
        ([A], {"stop_token_ids": [END_OF_THINK]}, 6, "stop"),
        ([A], {"max_tokens": 5}, 5, "length"),
    ):
        output = answer(processors["ernie-x1"], script, **fields, **asked)
        assert (output.num_output_tokens, output.finish_reason) == (num_tokens, reason), asked


@pytest.mark.parametrize(
    ("form", "asked", "num_reasoning"),
    [
        ("ernie-45-vl", {"max_tokens": 10}, 8 + 1),
        ("ernie-45-vl-thinking", {"max_tokens": 20}, 16 + 1),
        ("ernie-45-vl", {"max_tokens": 10, "reasoning_max_tokens": 20}, 10),
        ("ernie-45-vl", {"max_tokens": 1}, 1),
        ("ernie-x1", {"max_tokens": 10}, 10),
        ("text", {"max_tokens": 10, "reasoning_max_tokens": 2}, 0),
    ],
)
def test_models_whose_thinking_is_switched_have_a_limit_by_default(
    processors: dict[str, InputProcessor], form: str, asked: dict[str, Any], num_reasoning: int
) -> None:
    output = answer(processors[form], [A], **asked)
    assert (output.num_reasoning_tokens, output.num_output_tokens) == (num_reasoning, asked["max_tokens"])


def test_without_max_tokens_there_is_no_such_limit(processors: dict[str, InputProcessor]) -> None:
    output = answer(processors["ernie-45-vl"], [A], max_tokens=None)
    assert output.num_reasoning_tokens == output.num_output_tokens > 400


@pytest.mark.parametrize(
    ("script", "asked", "num_tokens"),
    [
        ([A, END_OF_THINK, A], {"response_max_tokens": 3}, 5),
        ([A], {"response_max_tokens": 3, "reasoning_max_tokens": 2}, 6),
        ([A], {"response_max_tokens": 3, "chat_template_kwargs": {"enable_thinking": False}}, 3),
        (
            [THINK, A, END_OF_THINK, A],
            {"response_max_tokens": 1, "chat_template_kwargs": {"enable_thinking": False}},
            4,
        ),
        ([A, END_OF_THINK, A], {"response_max_tokens": 30}, 24),
    ],
)
def test_what_follows_thinking_has_a_limit_of_its_own(
    processors: dict[str, InputProcessor], script: list[int], asked: dict[str, Any], num_tokens: int
) -> None:
    chat = {"chat_template_kwargs": asked.pop("chat_template_kwargs", {})}
    output = answer(processors["ernie-45-vl"], script, chat=chat, **{"reasoning_max_tokens": 24, **asked})
    assert (output.num_output_tokens, output.finish_reason) == (num_tokens, "length")


def test_it_limits_the_whole_answer_of_a_model_that_does_not_think(
    processors: dict[str, InputProcessor],
) -> None:
    assert answer(processors["text"], [A], response_max_tokens=3).num_output_tokens == 3
