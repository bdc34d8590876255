"""Requests with tools, from the wire through engine and parser: random weights call what they must."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ernie_backend.engine.engine import Engine
from ernie_backend.engine.input_processor import InputProcessor
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_frontend.parsing.answer_parser import JSON_CALLS, AnswerFormat, ParsedAnswer, parse_answer
from ernie_wire.errors import InvalidRequest
from ernie_wire.messages import GenerateRequest, Output, join_outputs
from ernie_wire.sampling import SamplingParameters
from fakes.sequences import reference_sampler
from fakes.token_hash_model import NoiseRunner
from support.paths import DENSE
from support.thinking_model import load_processor, thinking_model

TAGGED = ("ernie-45-vl-thinking", "ernie-x1")
ALL = ("dense", "ernie-45-vl", *TAGGED)
COLOURS = ["red", "green"]
PAINT = {
    "type": "function",
    "function": {
        "name": "paint",
        "parameters": {
            "type": "object",
            "properties": {"colour": {"enum": COLOURS}, "wet": {"type": "boolean"}},
            "required": ["colour", "wet"],
            "additionalProperties": False,
        },
    },
}
STOP = {"type": "function", "function": {"name": "stop"}}
NAMED = {"type": "function", "function": {"name": "paint"}}
ANSWER = {
    "json": {
        "type": "object",
        "properties": {"a": {"const": 1}},
        "required": ["a"],
        "additionalProperties": False,
    }
}
TOOL_CALL = b"<tool_call>"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, InputProcessor]:
    forms = {form: thinking_model(tmp_path_factory.mktemp("model"), form) for form in ALL[1:]}
    return {form: load_processor(path) for form, path in {"dense": DENSE, **forms}.items()}


def with_strict(tool: dict[str, Any], **changes: Any) -> dict[str, Any]:
    function = {**tool["function"], "strict": True}
    return {**tool, "function": {**function, "parameters": {**function.get("parameters", {}), **changes}}}


def request_of(
    model: InputProcessor, conversation: dict[str, Any], *, calls: int | None = None, **sampling: Any
) -> GenerateRequest:
    """Return a request whose thinking is short.

    Args:
        model: that gets it.
        conversation: fields besides its messages.
        calls: what is added to the logit of the token that begins a call.
        sampling: sampling parameters.
    """
    bias = {str(token_id): calls for token_id in begin_ids(model)} if calls is not None else {}
    asked = {"max_tokens": 200, "temperature": 1.0, "reasoning_max_tokens": 3, "logit_bias": bias, **sampling}
    messages = [{"role": "user", "content": "Hi"}]
    return GenerateRequest(
        "r",
        messages=json.dumps({"messages": messages, **conversation}).encode(),
        sampling=SamplingParameters.from_json(asked),
        return_marks=True,
    )


def begin_ids(model: InputProcessor) -> list[int]:
    tokenizer = model.tokenizer
    return [each for each in tokenizer.structural_ids if tokenizer.token_bytes(each) == TOOL_CALL]


def answer_of(model: InputProcessor, request: GenerateRequest) -> Output:
    vocab_size = model.tokenizer.vocab_size
    engine = Engine(
        NoiseRunner(400, 4, vocab_size),
        BlockManager(400, 4),
        SchedulerLimits(8, 64, 99),
        reference_sampler(vocab_size),
    )
    state = model.process(request)
    state.start_mask()
    assert engine.submit(state) is None
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
    answer = join_outputs(outputs)
    assert answer.error is None
    return answer


def parsed(model: InputProcessor, request: GenerateRequest) -> ParsedAnswer:
    answer = answer_of(model, request)
    form = AnswerFormat(model.format.reasoning_parser, model.format.tool_call_parser or JSON_CALLS)
    return parse_answer(form, answer.prompt_tag or "", answer)


def check_calls(answer: ParsedAnswer) -> list[str]:
    """Check the arguments of all calls, and return the functions' names."""
    for call in answer.tool_calls:
        arguments = json.loads(call.arguments)
        if call.name == "stop":
            assert arguments == {}
        else:
            assert arguments.keys() == {"colour", "wet"}
            assert arguments["colour"] in COLOURS
            assert isinstance(arguments["wet"], bool)
    return [call.name for call in answer.tool_calls]


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize("seed", range(2))
def test_forced_calls(models: dict[str, InputProcessor], form: str, seed: int) -> None:
    model = models[form]
    forced: dict[str, Any] = {"tools": [PAINT, STOP], "tool_choice": "required"}
    several = parsed(model, request_of(model, forced, calls=9, seed=seed))
    assert check_calls(several)
    one = parsed(model, request_of(model, {**forced, "parallel_tool_calls": False}, calls=9, seed=seed))
    assert len(check_calls(one)) == 1
    named = parsed(model, request_of(model, {**forced, "tool_choice": NAMED}, calls=9, seed=seed))
    assert check_calls(named) == ["paint"]
    for answer in (one, named):
        assert answer.content == ""
        assert bool(answer.reasoning) == (form != "dense")


@pytest.mark.parametrize("form", TAGGED)
def test_calls_by_choice(models: dict[str, InputProcessor], form: str) -> None:
    model = models[form]
    tools = {"tools": [with_strict(PAINT), STOP]}
    assert len(check_calls(parsed(model, request_of(model, tools, calls=100, seed=1)))) > 1
    only_one = {**tools, "parallel_tool_calls": False}
    assert len(check_calls(parsed(model, request_of(model, only_one, calls=100, seed=1)))) == 1
    limited = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [STOP]}}
    names = check_calls(parsed(model, request_of(model, {**tools, "tool_choice": limited}, calls=100, seed=1)))
    assert set(names) == {"stop"}
    text = parsed(model, request_of(model, tools, calls=-100, seed=1, max_tokens=60))
    assert text.content
    assert not text.tool_calls


@pytest.mark.parametrize("calls", [2, 4, 6])
def test_a_call_does_not_follow_text_where_the_parser_takes_it_for_text(
    models: dict[str, InputProcessor], calls: int
) -> None:
    model, tools = models["ernie-45-vl-thinking"], {"tools": [with_strict(PAINT), STOP]}
    answer = parsed(model, request_of(model, tools, calls=calls, seed=1, max_tokens=300))
    check_calls(answer)
    assert "<tool_call>" not in answer.content.removeprefix("<tool_call>")  # of a call that is cut


@pytest.mark.parametrize("form", TAGGED)
def test_calls_or_a_structured_answer(models: dict[str, InputProcessor], form: str) -> None:
    model = models[form]
    for calls in (100, -100):
        request = request_of(model, {"tools": [PAINT]}, calls=calls, seed=2, structured_outputs=ANSWER)
        answer = parsed(model, request)
        assert bool(check_calls(answer)) == (calls > 0)
        if calls < 0:
            assert json.loads(answer.content)["a"] == 1
    required = {"tools": [PAINT], "tool_choice": "required", "parallel_tool_calls": False}
    answer = parsed(model, request_of(model, required, calls=-9, seed=2, structured_outputs=ANSWER))
    assert check_calls(answer) == ["paint"]


def test_without_tokens_for_calls_only_forced_ones_have_a_form(models: dict[str, InputProcessor]) -> None:
    model = models["dense"]
    tools = {"tools": [with_strict(PAINT)]}
    assert model.process(request_of(model, tools)).pending_mask is None
    answer = answer_of(model, request_of(model, tools, structured_outputs=ANSWER))
    assert json.loads(answer.text)["a"] == 1


def test_a_schema_that_cannot_be_compiled(models: dict[str, InputProcessor]) -> None:
    """It is refused if it is strict, with the place; else only what cannot be checked is free."""
    model, broken = models["ernie-x1"], {"properties": {"colour": {"type": "wrong"}}}
    tool = with_strict(PAINT, **broken)
    forced = {"tools": [tool, STOP], "tool_choice": "required"}
    with pytest.raises(
        InvalidRequest, match=r"^tools: function\.parameters of 'paint'#/properties/colour"
    ) as raised:
        answer_of(model, request_of(model, forced))
    assert raised.value.param == "tools"
    with pytest.raises(InvalidRequest, match="'paint'#: not cannot be enforced; leave it out, or strict"):
        model.process(request_of(model, {**forced, "tools": [with_strict(PAINT, **{"not": {}})]}))
    del tool["function"]["strict"]
    answer = parsed(model, request_of(model, {**forced, "tool_choice": NAMED}, seed=3, max_tokens=400))
    assert [type(json.loads(call.arguments)) for call in answer.tool_calls] in ([dict], [])
    assert check_calls(
        parsed(
            model,
            request_of(
                model,
                {
                    **forced,
                    "tools": [STOP, tool],
                    "tool_choice": {"type": "function", "function": {"name": "stop"}},
                },
            ),
        )
    ) == ["stop"]


@pytest.mark.parametrize("kind", ["string", "wrong"])
def test_tools_that_are_too_large_together(models: dict[str, InputProcessor], kind: str) -> None:
    properties = {f"p{number}": {"type": "string"} for number in range(400)}
    tools = [
        {"function": {"name": f"f{number}", "parameters": {"properties": properties}}} for number in range(16)
    ]
    tools.append({"function": {"name": "g", "parameters": {"properties": {"a": {"type": kind}}}}})
    with pytest.raises(InvalidRequest, match=r"^tools: .* too (big|large|long)") as raised:
        answer_of(models["dense"], request_of(models["dense"], {"tools": tools, "tool_choice": "required"}))
    assert raised.value.param == "tools"


def test_a_wrong_structure_beside_tools(models: dict[str, InputProcessor]) -> None:
    wrong = request_of(models["ernie-x1"], {"tools": [PAINT]}, structured_outputs={"json": {"type": "wrong"}})
    with pytest.raises(InvalidRequest, match=r"structured_outputs\.json#") as raised:
        answer_of(models["ernie-x1"], wrong)
    assert raised.value.param == "structured_outputs"


@pytest.mark.parametrize(
    ("conversation", "param"),
    [
        ({"tools": [{}]}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ],
)
def test_clients_of_triton_are_checked_as_well(
    models: dict[str, InputProcessor], conversation: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        models["dense"].process(request_of(models["dense"], conversation))
    assert raised.value.param == param
