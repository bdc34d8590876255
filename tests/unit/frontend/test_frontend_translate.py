"""Requests to the wire: the thinking switch, unsupported fields, message forms, prompt forms."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ernie_frontend.http_errors import error_response
from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.common import GenerationFields
from ernie_frontend.schema.completions import CompletionRequest
from ernie_frontend.schema.openapi import GENERATIONS
from ernie_frontend.schema.unsupported import Refusal, refuse_unsupported
from ernie_frontend.translate.chat_request import chat_to_wire
from ernie_frontend.translate.completion_request import completion_to_wire
from ernie_frontend.translate.generate_request import RequestContext
from ernie_frontend.translate.response_context import ResponseContext
from ernie_wire.errors import InvalidRequest, InvalidValue, QueueFull
from ernie_wire.messages import GenerateRequest

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": MESSAGES, **fields})


def conversation(wire: GenerateRequest) -> dict[str, Any]:
    """Return what the engine reads."""
    decoded: dict[str, Any] = json.loads(wire.messages or b"")
    return decoded


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"enable_thinking": True}, True),
        ({"metadata": {"enable_thinking": False}}, False),
        ({"metadata": {"enable_thinking": "False"}}, False),
        ({"metadata": {"other": "x"}}, None),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}, "enable_thinking": False}, True),
        ({"enable_thinking": False, "metadata": {"enable_thinking": True}}, False),
        ({"metadata": {"enable_thinking": True}, "chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"options": {"thinking_mode": "close"}}}, False),
        ({"chat_template_kwargs": {"options": {"thinking_mode": "false"}}}, False),
        ({"chat_template_kwargs": {"options": {"thinking_mode": "open"}}}, True),
        ({"chat_template_kwargs": {"options": {"thinking_mode": ""}}}, None),
        ({"chat_template_kwargs": {"options": {"thinking_mode": False}}}, False),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "enabled"}, "reasoning_effort": "none"}, True),
        ({"thinking": {"type": "auto"}}, None),
        ({"thinking": {"type": "disabled"}, "enable_thinking": True}, True),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "low"}, None),
        ({"reasoning_effort": "none", "enable_thinking": True}, True),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"options": {"thinking_mode": "open"}}}, True),
        (
            {
                "metadata": {"enable_thinking": False},
                "chat_template_kwargs": {"options": {"thinking_mode": "open"}},
            },
            False,
        ),
    ],
)
def test_the_thinking_switch(fields: dict[str, Any], expected: bool | None) -> None:
    [wire] = chat_to_wire(chat(**fields), RequestContext("r", 1000, 8))
    assert conversation(wire)["chat_template_kwargs"].get("enable_thinking") is expected


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 100}, None),
        ({"reasoning_max_tokens": 7, "reasoning_effort": "low", "max_tokens": 100}, 7),
        ({"logits_processors_args": {"thinking_budget": 7}, "reasoning_effort": "low", "max_tokens": 100}, 7),
        ({"logits_processors_args": {"thinking_budget": 7}, "reasoning_max_tokens": 8}, 8),
        ({"logits_processors_args": {"x": None}}, None),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 9}, "reasoning_effort": "low", "max_tokens": 100},
            9,
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}, "reasoning_max_tokens": 8}, 8),
        ({"thinking": {"budget_tokens": 9}}, 9),
        ({"reasoning_effort": "low"}, None),
        ({"reasoning_effort": "none", "max_tokens": 100}, None),
        ({"reasoning_effort": "minimal", "max_tokens": 4}, 1),
        ({"reasoning_effort": "low", "max_tokens": 100}, 20),
        ({"reasoning_effort": "medium", "max_tokens": 100, "max_completion_tokens": 10}, 5),
        ({"reasoning_effort": "xhigh", "max_tokens": 100}, 95),
    ],
)
def test_the_limit_of_thinking(fields: dict[str, Any], limit: int | None) -> None:
    [wire] = chat_to_wire(chat(**fields), RequestContext("r", 1000, 8))
    assert wire.sampling.reasoning_max_tokens == limit
    effort = conversation(wire)["chat_template_kwargs"].get("reasoning_effort")
    assert effort == fields.get("reasoning_effort")


def test_the_end_of_the_prompt_is_passed_on_as_it_is_asked_for() -> None:
    def passed_on(**fields: Any) -> dict[str, Any]:
        [wire] = chat_to_wire(chat(**fields), RequestContext("r", 1000, 8))
        return conversation(wire)

    flags = {"add_generation_prompt": False, "continue_final_message": True}
    assert passed_on(**flags).items() >= flags.items()
    assert passed_on(**dict.fromkeys(flags)).keys() == {"messages", "chat_template_kwargs"}
    for name in flags:
        with pytest.raises(InvalidValue, match=name):
            passed_on(chat_template_kwargs={name: True})


def test_tool_calls_go_on_as_they_came_whatever_their_arguments_hold() -> None:
    calls = [
        {"function": {"name": "a", "arguments": '{"x": 1}'}},
        {"function": {"name": "b", "arguments": {"x": 1}}},
        {"function": {"name": "c", "arguments": "[" * 100_000}},
    ]
    [wire] = chat_to_wire(
        chat(messages=[{"role": "assistant", "tool_calls": calls}]), RequestContext("r", 1000, 8)
    )
    [message] = conversation(wire)["messages"]
    assert message["tool_calls"] == calls


def test_tools_and_their_choice_go_on_as_they_came() -> None:
    """The engine reads them; names of parameters and other scripts stay as they are."""
    given: dict[str, Any] = {
        "tools": [{"function": {"z": 1, "name": "天气", "parameters": {"type": "object"}}, "type": "function"}],
        "tool_choice": {"type": "function", "function": {"name": "天气"}},
        "parallel_tool_calls": False,
    }
    [wire] = chat_to_wire(chat(**given), RequestContext("r", 1000, 8))
    assert json.dumps({name: conversation(wire)[name] for name in given}) == json.dumps(given)
    assert "天气".encode() in (wire.messages or b"")
    [without] = chat_to_wire(chat(**dict.fromkeys(given)), RequestContext("r", 1000, 8))
    assert not conversation(without).keys() & given.keys()


def test_wrong_tools_are_refused_before_they_are_sent() -> None:
    for field, wrong in (("tools", [{"function": {}}]), ("tool_choice", "auto")):
        with pytest.raises(InvalidRequest, match=field):
            chat_to_wire(chat(**{field: wrong}), RequestContext("r", 1000, 8))


@pytest.mark.parametrize("raw", [{"prompt_token_ids": [5]}, {"disable_chat_template": True}])
def test_a_raw_prompt_cannot_force_a_call(raw: dict[str, Any]) -> None:
    tools = [{"function": {"name": "f"}}]
    chat_to_wire(chat(tools=tools, **raw), RequestContext("r", 1000, 8))
    with pytest.raises(InvalidValue, match="tool_choice needs messages"):
        chat_to_wire(chat(tools=tools, tool_choice="required", **raw), RequestContext("r", 1000, 8))


def test_messages_go_on_as_they_came_without_what_nobody_reads() -> None:
    """Roles and contents in other forms are the engine's to read; null and unknown fields are left out."""
    parts = [{"type": "text", "text": "a", "brand_new": float("inf")}, {"type": "text", "text": "b"}]
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": parts},
        {"role": "bot", "content": None, "name": None, "brand_new": 1},
        {"role": "tool", "content": {"type": "text", "text": "23"}, "tool_call_id": "c"},
    ]
    [wire] = chat_to_wire(chat(messages=messages), RequestContext("r", 1000, 8))
    developer = {"role": "developer", "content": [{"type": "text", "text": text} for text in "ab"]}
    assert conversation(wire)["messages"] == [developer, {"role": "bot"}, messages[2]]
    assert wire.media == ()


def test_several_answers_share_one_serialized_conversation() -> None:
    wires = chat_to_wire(chat(n=3), RequestContext("r", 1000, 8))
    assert len({id(wire.messages) for wire in wires}) == 1


@pytest.mark.parametrize("path", GENERATIONS)
def test_every_unsupported_field_has_a_reason_and_a_way_out(path: str) -> None:
    table = GENERATIONS[path].refused

    def refuse(name: str, value: Any) -> None:
        refuse_unsupported(GenerationFields.model_construct(**{name: value}), table)

    for name, refusal in table.items():
        for value in (None, *refusal.neutral):
            refuse(name, value)
        with pytest.raises(InvalidValue, match=f"^{name} ") as caught:
            refuse(name, "surely not neutral")
        assert caught.value.param == name


def test_a_field_that_a_body_inherits_can_be_refused() -> None:
    refused = {"n": Refusal("there is one answer", (1,))}
    for fields in ({}, {"n": None}, {"n": 1}):
        refuse_unsupported(GenerationFields.model_validate(fields), refused)
    with pytest.raises(InvalidValue, match=r"^n "):
        refuse_unsupported(GenerationFields.model_validate({"n": 2}), refused)


def test_unknown_fields_are_ignored() -> None:
    for fields in ({"brand_new": 1}, {"metadata": {"brand_new": 1}}):
        assert chat_to_wire(chat(**fields), RequestContext("r", 1000, 8)) == chat_to_wire(
            chat(), RequestContext("r", 1000, 8)
        )


@pytest.mark.parametrize(("vocab_size", "token_id"), [(1000, 1000), (1000, -1), (None, 2**31), (0, 2**31)])
def test_token_ids_are_checked_at_the_edge(vocab_size: int | None, token_id: int) -> None:
    body = CompletionRequest.model_validate({"prompt": [1, token_id]})
    with pytest.raises(InvalidValue, match=str(token_id)):
        completion_to_wire(body, RequestContext("r", vocab_size, 8))


def test_each_prompt_is_a_request_of_its_own() -> None:
    body = CompletionRequest.model_validate({"prompt": [[1, 999], [3]], "max_tokens": 4, "stream": True})
    wires = completion_to_wire(body, RequestContext("r", 1000, 2))
    assert [wire.request_id for wire in wires] == ["r-0", "r-1"]
    assert [wire.input_ids for wire in wires] == [(1, 999), (3,)]
    assert all(wire.stream and wire.sampling.max_tokens == 4 for wire in wires)
    with pytest.raises(InvalidValue, match="at most 1"):
        completion_to_wire(body, RequestContext("r", 1000, 1))


def test_several_answers_count_the_seed_on() -> None:
    wires = chat_to_wire(chat(n=3, seed=2**63 - 2), RequestContext("r", 1000, 3))
    assert [wire.request_id for wire in wires] == ["r-0", "r-1", "r-2"]
    assert [wire.sampling.seed for wire in wires] == [2**63 - 2, 2**63 - 1, 0]
    for unseeded in ({}, {"seed": None}, {"seed": -1}):
        seeds = {
            wire.sampling.seed for wire in chat_to_wire(chat(n=3, **unseeded), RequestContext("r", 1000, 3))
        }
        assert seeds == {unseeded.get("seed")}
    counted = [wire.sampling.seed for wire in chat_to_wire(chat(n=3, seed=-3), RequestContext("r", 1000, 3))]
    assert counted == [-3, 2**63 - 2, 2**63 - 1], "-3 is 2**63 - 3"
    body = CompletionRequest.model_validate({"prompt": ["a", "b"], "n": 2, "seed": 5})
    wires = completion_to_wire(body, RequestContext("r", 1000, 8))
    assert [wire.text_input for wire in wires] == ["a", "a", "b", "b"]
    assert [wire.sampling.seed for wire in wires] == [5, 6, 5, 6]


def test_prompts_of_token_ids() -> None:
    forms: tuple[dict[str, Any], ...] = (
        {"messages": [5, 6]},
        {"prompt_token_ids": [5, 6]},
        {"messages": [], "prompt_token_ids": [5, 6]},
    )
    for fields in forms:
        [wire] = chat_to_wire(ChatRequest.model_validate(fields), RequestContext("r", 1000, 1))
        assert (wire.input_ids, wire.messages) == ((5, 6), None)
    [wire] = chat_to_wire(chat(prompt_token_ids=[5, 6], completion_token_ids=[7]), RequestContext("r", 1000, 1))
    assert wire.input_ids == (5, 6, 7)
    forms = ({"prompt": [1]}, {"prompt": "x", "prompt_token_ids": [1]}, {"prompt_token_ids": [1]})
    for fields in forms:
        body = CompletionRequest.model_validate({**fields, "completion_token_ids": [2, 3]})
        [wire] = completion_to_wire(body, RequestContext("r", 1000, 1))
        assert wire.input_ids == (1, 2, 3)


def test_no_template() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "as it stands"}]}]
    [wire] = chat_to_wire(chat(messages=messages, disable_chat_template=True), RequestContext("r", 1000, 1))
    assert (wire.text_input, wire.messages) == ("as it stands", None)


@pytest.mark.parametrize(
    ("fields", "logprobs", "prompt_logprobs"),
    [
        ({}, None, None),
        ({"logprobs": 3}, 3, None),
        ({"best_of": 2}, 0, None),
        ({"best_of": 2, "logprobs": 3}, 3, None),
        ({"n": 2, "best_of": 2}, None, None),
        ({"echo": True}, None, None),
        ({"echo": True, "logprobs": 3}, 3, 3),
        ({"echo": True, "logprobs": 3, "prompt_logprobs": 5}, 3, 5),
        ({"echo": True, "logprobs": 3, "prompt_logprobs": 1}, 3, 3),
        ({"logprobs": 3, "prompt_logprobs": 0}, 3, 0),
    ],
)
def test_which_log_probabilities_the_engine_is_asked_for(
    fields: dict[str, Any], logprobs: int | None, prompt_logprobs: int | None
) -> None:
    body = CompletionRequest.model_validate({"prompt": "a", **fields})
    wire = completion_to_wire(body, RequestContext("r", 1000, 8))[0]
    assert (wire.sampling.logprobs, wire.sampling.prompt_logprobs) == (logprobs, prompt_logprobs)
    assert wire.return_token_ids is ("echo" in fields)


@pytest.mark.parametrize(
    ("fields", "sampling"),
    [
        ({"max_tokens": 16.0, "min_tokens": 2.0}, {"max_tokens": 16, "min_tokens": 2}),
        ({"top_k": -1, "top_p": 0, "temperature": 1}, {"top_k": -1, "top_p": 0.0, "temperature": 1.0}),
        ({"top_k": 5.0, "seed": 7.0}, {"top_k": 5, "seed": 7}),
        ({"seed": -3}, {"seed": -3}),
        ({"stop_token_ids": [8.0]}, {"stop_token_ids": [8]}),
        ({"bad_words_token_ids": [9.0]}, {"bad_words_token_ids": [9]}),
        ({"prompt_logprobs": True}, {"prompt_logprobs": 1}),
        ({"prompt_logprobs": -1}, {"prompt_logprobs": -1}),
        ({"prompt_logprobs": False}, {}),
        ({"stop": ""}, {}),
        ({"stop": [], "bad_words": [], "stop_token_ids": [], "logit_bias": {}}, {}),
        ({"metadata": {"max_tokens": 3.0}}, {"max_tokens": 3}),
        ({"stream_options": {}}, {}),
        ({"response_format": {"type": "text", "json_schema": None}}, {}),
    ],
)
def test_spellings_that_other_servers_accept(fields: dict[str, Any], sampling: dict[str, Any]) -> None:
    """What vLLM and FastDeploy take, with the same meaning, on both endpoints alike."""
    [wire] = chat_to_wire(chat(**fields), RequestContext("r", 1000, 8))
    body = CompletionRequest.model_validate({"prompt": "a", **fields})
    for made in (wire, *completion_to_wire(body, RequestContext("r", 1000, 8))):
        assert json.dumps(made.sampling.to_json(), sort_keys=True) == json.dumps(sampling, sort_keys=True)


def test_null_is_absent_in_every_field() -> None:
    nothing = dict.fromkeys(set(ChatRequest.model_fields) - {"messages"})
    assert chat_to_wire(chat(**nothing), RequestContext("r", 1000, 8)) == chat_to_wire(
        chat(), RequestContext("r", 1000, 8)
    )
    nothing = dict.fromkeys(set(CompletionRequest.model_fields) - {"prompt"})
    bodies = [CompletionRequest.model_validate({"prompt": "a", **fields}) for fields in (nothing, {})]
    assert completion_to_wire(bodies[0], RequestContext("r", 1000, 8)) == completion_to_wire(
        bodies[1], RequestContext("r", 1000, 8)
    )


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [
        ({"logprobs": True}, 1),
        ({"logprobs": False}, None),
        ({"logprobs": 3.0}, 3),
        ({"logprobs": -1}, -1),
        ({"logprobs": None}, None),
    ],
)
def test_how_many_log_probabilities_completions_give(fields: dict[str, Any], logprobs: int | None) -> None:
    body = CompletionRequest.model_validate({"prompt": "a", "echo": True, "prompt_logprobs": 0, **fields})
    [wire] = completion_to_wire(body, RequestContext("r", 1000, 8))
    assert (wire.sampling.logprobs, body.num_logprobs) == (logprobs, logprobs)
    assert wire.sampling.prompt_logprobs == (logprobs or 0), "echo needs as many of the prompt"


def test_how_many_log_probabilities_chat_gives() -> None:
    for top, expected in ((True, 1), (False, 0), (None, 0), (2.0, 2), (-1, -1)):
        assert chat(logprobs=True, top_logprobs=top).num_logprobs == expected


def test_whole_floats_are_integers_wherever_these_are_wanted() -> None:
    fields = {"n": 2.0, "priority": -1.0, "max_completion_tokens": 4.0, "max_streaming_response_tokens": 3.0}
    wires = chat_to_wire(chat(**fields), RequestContext("r", 1000, 8))
    assert [(wire.priority, wire.sampling.max_tokens) for wire in wires] == [(-1, 4), (-1, 4)]
    ids = {"prompt_token_ids": [5.0, 6], "completion_token_ids": [7.0]}
    for body in (chat(messages=[5.0, 6.0]), ChatRequest.model_validate(ids)):
        [wire] = chat_to_wire(body, RequestContext("r", 1000, 8))
        assert json.dumps(wire.input_ids) in ("[5, 6]", "[5, 6, 7]")
    for prompt in ([5.0, 6], [[5, 6.0]]):
        for name in ("prompt", "prompt_token_ids"):
            plain = CompletionRequest.model_validate({name: prompt, "best_of": 1.0})
            [wire] = completion_to_wire(plain, RequestContext("r", 1000, 8))
            assert json.dumps(wire.input_ids) == "[5, 6]"


@pytest.mark.parametrize(
    ("options", "has_usage", "has_running_usage"),
    [
        ({}, True, False),
        ({"include_usage": None}, False, False),
        ({"include_usage": False}, False, False),
        ({"include_usage": True, "continuous_usage_stats": None}, True, False),
        (None, False, False),
    ],
)
def test_stream_options(options: dict[str, Any] | None, has_usage: bool, has_running_usage: bool) -> None:
    body = chat(stream=True, stream_options=options)
    header = ResponseContext.of(body, "id", 0, "m")
    assert (header.has_usage, header.has_running_usage) == (has_usage, has_running_usage)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"metadata": {"temperature": 0.5}}, 0.5),
        ({"temperature": None, "metadata": {"temperature": 0.5}}, 0.5),
        ({"temperature": 0.25, "metadata": {"temperature": 0.5}}, 0.25),
        ({"metadata": {"temperature": "0.5"}}, None),  # OpenAI's metadata: strings that mean nothing to us
    ],
)
def test_metadata_carries_fields(fields: dict[str, Any], expected: float | None) -> None:
    assert chat(**fields).temperature == expected
    body = CompletionRequest.model_validate({"prompt": "a", **fields})
    assert body.temperature == expected


def test_metadata_does_not_carry_the_prompt() -> None:
    body = chat(metadata={"messages": [], "prompt": ["x"], "stream": True, "model": ["x"]})
    assert (len(body.messages or ()), body.stream, body.model) == (1, None, None)


def test_metadata_sets_no_field_that_a_body_does_not_open_to_it() -> None:
    class Body(GenerationFields):
        FROM_METADATA = frozenset(("opened",))
        opened: int | None = None
        input: int | None = None

    body = Body.model_validate({"metadata": {"opened": 1, "input": 2, "top_k": 3}})
    assert (body.opened, body.input, body.top_k) == (1, None, 3)
    for endpoint, closed in ((ChatRequest, {"messages", "enable_thinking"}), (CompletionRequest, {"prompt"})):
        added = endpoint.model_fields.keys() - GenerationFields.model_fields.keys()
        assert added - closed == endpoint.FROM_METADATA


def test_only_completions_may_ask_for_no_tokens() -> None:
    with pytest.raises(ValidationError, match="max_tokens"):
        GenerationFields.model_validate({"max_tokens": 0})
    assert CompletionRequest.model_validate({"max_tokens": 0}).max_tokens == 0


def test_a_full_queue_says_when_to_come_again() -> None:
    response = error_response(QueueFull("the queue holds 512 requests", retry_after_s=7))
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
