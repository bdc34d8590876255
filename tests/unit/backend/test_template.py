"""Chat templates: the directory's own, the built-in one, and messages as clients send them."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ernie_backend.chat import template_environment
from ernie_backend.chat.template import BUILT_IN, ChatTemplate
from ernie_backend.errors import StartError
from ernie_wire.errors import ChatTemplateFailed, InvalidValue
from support.paths import DATA

TEMPLATES = DATA / "chat_templates"
CORPUS: dict[str, dict[str, Any]] = json.loads((TEMPLATES / "goldens.json").read_text(encoding="utf-8"))
USER = {"role": "user", "content": "Hi"}
BEGIN = "<|begin_of_sentence|>"


@pytest.fixture(params=["built-in", "dense"])
def template(request: pytest.FixtureRequest) -> ChatTemplate:
    if request.param == "built-in":
        return ChatTemplate(BUILT_IN, {})
    return ChatTemplate.from_directory(DATA / "dense")


def _render(template: ChatTemplate, *messages: dict[str, Any], **more: Any) -> str:
    return template.render({"messages": list(messages), **more}).text


def test_the_users_own_template_wins_as_text_and_as_file(tmp_path: Path) -> None:
    text = "{{ cls_token }}{{ messages[0].content }}!"
    file = tmp_path / "mine.jinja"
    file.write_text(text)
    for given in (text, str(file)):
        own = ChatTemplate.from_directory(DATA / "dense", given)
        assert _render(own, USER) == BEGIN + "Hi!"
    with pytest.raises(StartError, match="nowhere"):
        ChatTemplate.from_directory(DATA / "dense", str(tmp_path / "nowhere.jinja"))
    with pytest.raises(StartError, match=r"chat_template .*valid Jinja"):
        ChatTemplate.from_directory(DATA / "dense", "{{ messages")


SYSTEM = {"role": "system", "content": "SYS"}


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([USER], "User: Hi\nAssistant: "),
        ([SYSTEM, USER], "SYS\nUser: Hi\nAssistant: "),
        (
            [SYSTEM, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, USER],
            "SYS\nUser: a\nAssistant: b<|end_of_sentence|>User: Hi\nAssistant: ",
        ),
        (
            [USER, {"role": "assistant", "content": ""}, {"role": "tool", "content": "1"}],
            "User: Hi\nAssistant: <|end_of_sentence|>Assistant: ",
        ),
        (
            [{"role": "developer", "content": "D"}, {"role": "bot"}],
            "D\nAssistant: <|end_of_sentence|>Assistant: ",
        ),
        ([{"role": "user", "content": {"type": "text", "text": "a"}}], "User: a\nAssistant: "),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, "b", {"type": "text", "text": "c"}]}],
            "User: abc\nAssistant: ",
        ),
    ],
)
def test_the_text_model_s_prompts(template: ChatTemplate, messages: list[dict[str, Any]], prompt: str) -> None:
    assert _render(template, *messages) == BEGIN + prompt


def test_the_generation_prompt_can_be_left_out(template: ChatTemplate) -> None:
    assert (
        _render(template, USER, chat_template_kwargs={"add_generation_prompt": False}) == BEGIN + "User: Hi\n"
    )

    assert _render(template, USER, add_generation_prompt=False) == BEGIN + "User: Hi\n"
    assert _render(template, USER, add_generation_prompt=None) == BEGIN + "User: Hi\nAssistant: "


@pytest.mark.parametrize("content", ["b", "b \n", "", None, [{"type": "text", "text": "b c"}]])
@pytest.mark.parametrize("flags", [{}, {"add_generation_prompt": False}])
def test_the_final_message_is_continued(
    template: ChatTemplate, content: str | list[dict[str, str]] | None, flags: dict[str, bool]
) -> None:
    messages = (USER, {"role": "assistant", "content": content})
    text = content[0]["text"] if isinstance(content, list) else content or ""
    prompt = f"{BEGIN}User: Hi\nAssistant: {text}"
    assert _render(template, *messages, continue_final_message=True, **flags) == prompt
    assert _render(template, *messages, continue_final_message=False).startswith(prompt + "<|end_of_sentence|>")


def test_a_user_may_be_continued_and_a_content_occur_twice(template: ChatTemplate) -> None:
    assert _render(template, USER, USER, continue_final_message=True) == f"{BEGIN}User: Hi\nUser: Hi"


def test_a_template_that_strips_the_content_strips_what_is_continued() -> None:
    template = ChatTemplate("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}", {})
    assert _render(template, USER, {**USER, "content": " a \n"}, continue_final_message=True) == "[Hi][a"


@pytest.mark.parametrize(
    ("chat", "complaint"),
    [
        ({"continue_final_message": True, "add_generation_prompt": True}, "both true"),
        ({"continue_final_message": 1}, "true or false"),
    ],
)
def test_a_continuation_that_cannot_be_is_refused(
    template: ChatTemplate, chat: dict[str, object], complaint: str
) -> None:
    with pytest.raises(InvalidValue, match=complaint) as caught:
        _render(template, USER, **chat)
    assert caught.value.param == "continue_final_message"
    with pytest.raises(InvalidValue, match="add_generation_prompt"):
        _render(template, USER, add_generation_prompt="no")


def test_content_that_the_template_leaves_out_cannot_be_continued() -> None:
    template = ChatTemplate("{{ messages[0].content }}", {})
    assert _render(template, USER, continue_final_message=True) == "Hi"
    with pytest.raises(InvalidValue, match="leaves out") as caught:
        _render(template, USER, USER, continue_final_message=True)
    assert caught.value.param == "continue_final_message"


def test_a_client_cannot_write_where_the_final_message_ends() -> None:
    """Even one who has seen where another prompt was cut."""
    showing = ChatTemplate("{{ raise_exception(messages[0].content) }}", {})
    with pytest.raises(InvalidValue) as seen:
        _render(showing, USER, continue_final_message=True)
    mark = str(seen.value).partition("Hi")[2].strip()
    assert mark
    marked = {**USER, "content": f"a {mark} b"}
    with pytest.raises(InvalidValue, match="leaves out"):
        _render(ChatTemplate("{{ messages[0].content }}", {}), marked, USER, continue_final_message=True)
    template = ChatTemplate("{{ messages[1].content }} {{ messages[0].content }}", {})
    assert _render(template, marked, USER, continue_final_message=True) == "Hi"


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        (None, "at least one"),
        ([], "at least one"),
        (["Hi"], r"messages\[0\]"),
        ([USER, {"role": "king"}], r"messages\[1\]\.role .*king"),
        ([{"content": "x"}], "role"),
        ([{"role": "user", "content": 5}], "text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "image_url"),
        ([{"role": "user", "content": [{"type": "text"}]}], "None"),
    ],
)
def test_wrong_messages_are_refused(template: ChatTemplate, messages: object, complaint: str) -> None:
    with pytest.raises(InvalidValue, match=complaint) as caught:
        template.render({"messages": messages})
    assert caught.value.param == "messages"


def test_a_template_that_refuses_is_the_messages_fault() -> None:
    with pytest.raises(InvalidValue, match="no system") as caught:
        _render(ChatTemplate("{{ raise_exception('no system') }}", {}), USER)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("source", "failure"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ messages[7].content.x }}", "UndefinedError: list object has no element 7"),
        ("{{ messages + 1 }}", 'TypeError: can only concatenate list (not "int") to list'),
        ("{{ missing.x }}", "UndefinedError: 'missing' is undefined"),
        ("{{ missing() }}", "UndefinedError: 'missing' is undefined"),
        ("{% if messages %}{{ 1 | missing }}{% endif %}", "TemplateRuntimeError: No filter named 'missing'"),
        ("{% include 'a' %}", "TypeError: no loader for this environment specified"),
        ("{{ missing | tojson }}", "TypeError: Object of type Undefined is not JSON serializable"),
        ("{{ strftime_now() }}", "TypeError: "),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError: maximum recursion depth"),
        ("{{ 'x' * 99999999999999999 }}", "OverflowError"),
        ("{{ 5 | dictsort }}", "AttributeError: 'int' object has no attribute 'items'"),
    ],
)
def test_a_fault_of_the_template_says_what_failed_and_only_the_log_says_in_which_file(
    source: str, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    template = ChatTemplate(f"A\n\n  {source}", {}, "m/chat_template.jinja")
    with pytest.raises(ChatTemplateFailed) as caught:
        _render(template, USER)
    assert caught.value.message.startswith(f"the chat template fails on this request, in line 3: {failure}")
    assert "chat_template.jinja" not in caught.value.message
    name = failure.partition(":")[0]
    assert f"m/chat_template.jinja fails on a request, in line 3: {name}" in caplog.messages
    assert (caught.value.status, caught.value.param) == (400, None)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% if %}", "Expected an expression, got 'end of statement block'"),
        ("{% break %}", "'break' outside loop$"),
        ("{{ 1 | missing }}", "No filter named 'missing'"),
        ("{{ 9" + "9" * 5000 + " }}", "Exceeds the limit"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "maximum recursion depth"),
    ],
    ids=lambda text: text[:20],
)
def test_a_template_that_cannot_be_compiled_ends_the_start(source: str, reason: str) -> None:
    with pytest.raises(StartError, match=rf"m/chat_template\.jinja .*{reason}"):
        ChatTemplate(source, {}, "m/chat_template.jinja")


def test_templates_run_in_a_sandbox() -> None:
    for source in ("{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}{{ ''.__class__.__mro__[1].x }}"):
        with pytest.raises(ChatTemplateFailed, match="SecurityError"):
            _render(ChatTemplate(source, {}), USER)


@pytest.mark.parametrize("name", CORPUS)
def test_templates_render_as_in_transformers(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The goldens are transformers' own, see ``make_goldens.py`` beside them."""
    monkeypatch.setattr(
        template_environment, "datetime", SimpleNamespace(now=lambda: datetime(2025, 3, 4, 5, 6, 7))
    )
    cases = json.loads((TEMPLATES / "cases.json").read_text(encoding="utf-8"))
    source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    template = ChatTemplate(source, cases["special_tokens"])
    for chat in cases["chats"]:
        flags = {name: chat.get(name) for name in ("add_generation_prompt", "continue_final_message")}
        options, tools = chat.get("kwargs"), cases["tools"] if chat.get("has_tools") else None
        try:
            found = _render(template, *chat["messages"], tools=tools, chat_template_kwargs=options, **flags)
        except InvalidValue as error:
            refusal = error.message.removeprefix("the chat template refuses these messages: ")
            assert {"refusal": refusal} == CORPUS[name][chat["name"]], chat["name"]
        else:
            assert found == CORPUS[name][chat["name"]], chat["name"]


def test_a_generation_tag_may_hold_a_break() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% break %}{% endgeneration %}{% endfor %}"
    assert _render(ChatTemplate(source, {}), USER, USER) == "Hi"


def test_fields_without_a_value_are_absent() -> None:
    """As openai's client sends back the answers that it got."""
    source = "{% for m in messages %}{{ m | length }}{{ m.tool_calls is defined }}{% endfor %}"
    answer = {"role": "assistant", "content": None, "tool_calls": None, "refusal": None}
    assert _render(ChatTemplate(source, {}), answer) == "2False"


def test_what_a_template_can_see() -> None:
    source = (
        "{{ sep_token }}|{{ tools | tojson }}|{{ enable_thinking }}|{{ chat_template_kwargs.enable_thinking }}"
    )
    rendered = _render(
        ChatTemplate(source, {"sep_token": "S"}),
        USER,
        tools=[{"name": "天气"}],
        chat_template_kwargs={"enable_thinking": False, "messages": "not these"},
    )
    assert rendered == 'S|[{"name": "天气"}]|False|False'


@pytest.mark.parametrize(("depth", "is_object"), [(64, True), (65, False), (970, False), (5000, False)])
def test_tool_arguments_nested_too_deeply_stay_a_text_whatever_the_stack_holds(
    depth: int, is_object: bool
) -> None:
    arguments = '{"a": ' * depth + "1" + "}" * depth
    template = ChatTemplate("{{ messages[0].tool_calls[0].function.arguments is string }}", {})
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    assert _render(template, call) == str(not is_object)


def test_tool_arguments_are_objects_in_the_template() -> None:
    source = "{% for c in messages[0].tool_calls %}{{ c.function.arguments | tojson }};{% endfor %}"
    calls = [
        {"function": {"name": "f", "arguments": value}} for value in ('{"a": 1}', {"b": 2}, "no json", "", None)
    ]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    assert _render(ChatTemplate(source, {}), message) == '{"a": 1};{"b": 2};"no json";{};{};'


def test_tools_are_hidden_from_the_template_if_none_may_be_called() -> None:
    template = ChatTemplate("{{ tools | tojson }}", {})
    tools = [{"type": "function", "function": {"name": "f"}}]
    for more, expected in (({}, json.dumps(tools)), ({"tool_choice": "none"}, "null")):
        assert _render(template, USER, tools=tools, **more) == expected
    assert _render(template, USER, tools=[]) == "null"


def test_where_a_directory_s_template_is_found(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "sep_token": {"content": "S"},
                "chat_template": [{"name": "default", "template": "C{{ sep_token }}"}],
            }
        )
    )
    assert _render(ChatTemplate.from_directory(tmp_path), USER) == "CS"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "B"}))
    assert _render(ChatTemplate.from_directory(tmp_path), USER) == "B"
    (tmp_path / "chat_template.jinja").write_text("A")
    assert _render(ChatTemplate.from_directory(tmp_path), USER) == "A"
    (tmp_path / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(StartError, match=r"chat_template\.jinja .*valid Jinja"):
        ChatTemplate.from_directory(tmp_path)
    assert _render(ChatTemplate.from_directory(DATA), USER).startswith(BEGIN), "no template: the built-in one"


def test_a_template_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(StartError, match="UTF-8"):
        ChatTemplate.from_directory(tmp_path)


def test_deeply_nested_files_and_arguments_are_no_json(tmp_path: Path, template: ChatTemplate) -> None:
    deep = "[" * 100_000
    (tmp_path / "tokenizer_config.json").write_text(deep)
    with pytest.raises(StartError, match=r"tokenizer_config\.json .*nested"):
        ChatTemplate.from_directory(tmp_path)
    call = {"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "f", "arguments": deep}}]}
    assert "Assistant: x" in _render(template, call)


NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
BRANCHING = (
    "{% macro twice(n) %}{{ twice(n + 1) if n < 60 }}{{ twice(n + 1) if n < 60 }}{% endmacro %}{{ twice(0) }}"
)


@pytest.mark.parametrize("source", [NESTED, BRANCHING])
@pytest.mark.timeout(60)
def test_a_template_without_an_end_is_cut_off(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_environment, "RENDER_LIMIT_S", 0.2)
    with pytest.raises(ChatTemplateFailed, match="within"):
        ChatTemplate(source, {}).render({"messages": [{"role": "user", "content": "Hi"}]})


@pytest.mark.parametrize("source", ["{{ 9 ** (9 ** 9) }}", "{{ 'x' * 10 ** 10 }}", "{{ 10 ** 10 * [1] }}"])
@pytest.mark.timeout(60)
def test_nor_does_a_product_take_the_machine(source: str) -> None:
    with pytest.raises(ChatTemplateFailed, match="OverflowError"):
        ChatTemplate(source, {}).render({"messages": [{"role": "user", "content": "Hi"}]})


def test_timed_loops_are_loops_as_ever() -> None:
    source = (
        "{% for m in messages if m.role != 'x' %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}"
        "{{ loop.previtem.role if not loop.first }}{{ loop.nextitem.role if not loop.last }} {% endfor %}"
        "{% for n in none_such %}{{ n }}{% else %}none{% endfor %}{{ 2 * 3 }}{{ 2 ** 3 }}{{ '-' * 2 }}"
    )
    messages = [{"role": role, "content": "Hi"} for role in ("user", "assistant")]
    rendered = ChatTemplate(source, {}).render({"messages": messages}).text
    assert rendered == "1/2Falseassistant 2/2Trueuser none68--"
