"""Reading sets of questions: the shipped ones are well formed, and a bad line is named with its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ernie_cli.errors import CommandError
from ernie_cli.evaluation.question_sets import read_set, shipped_sets

GOOD: dict[str, Any] = {
    "messages": [{"role": "user", "content": "法国的首都是哪里？"}],
    "answers": ["法国的首都是巴黎。", "巴黎"],
    "category": "capitals",
    "language": "zh",
}


def file_of(directory: Path, *lines: str) -> str:
    file = directory / "own.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def test_the_shipped_sets() -> None:
    assert shipped_sets() == ["arithmetic", "questions"]
    for name in shipped_sets():
        questions = read_set(name).questions
        assert len(questions) >= 250
        assert {question.language for question in questions} == {"en", "zh"}
        asked = {json.dumps(question.messages) for question in questions}
        assert len(asked) == len(questions)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    name = file_of(tmp_path, json.dumps(GOOD, ensure_ascii=False), "", json.dumps(GOOD))
    found = read_set(name)
    assert found.name == name
    assert [question.line for question in found.questions] == [1, 3]
    assert found.questions[0].messages == ({"role": "user", "content": "法国的首都是哪里？"},)
    assert found.questions[0].answers == ("法国的首都是巴黎。", "巴黎")
    assert (found.questions[0].category, found.questions[0].language) == ("capitals", "zh")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"messages": []}, r"messages must be a list of at least one, not \[\]"),
        ({"messages": ["Hi"]}, r"messages\[0\] must be an object of role and content, not 'Hi'"),
        (
            {"messages": [{"role": "bot", "content": "x"}]},
            r"messages\[0\]\.role must be one of system, user, assistant",
        ),
        ({"messages": [{"role": "user", "content": 7}]}, r"messages\[0\]\.content must be a text .*, not 7"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the last of messages must be the user's"),
        ({"answers": "Paris"}, "answers must be a list of at least one, not 'Paris'"),
        ({"answers": ["Paris", " "]}, r"answers\[1\] must be a text of more than spaces, not ' '"),
        ({"answers": ["Paris", " 。"]}, r"answers\[1\] must be more than end marks, .*, not  。"),
        ({"answers": ["\ud800"]}, r"answers\[0\] holds half of a surrogate pair, .*: \\ud800"),
        ({"messages": [{"role": "user", "content": "\udc80"}]}, r"messages\[0\]\.content holds half of"),
        ({"category": None}, "category must be a text"),
        ({"category": "all"}, "category must not be all, which stands for every one of them"),
        ({"category": "\ud800"}, "category holds half of a surrogate pair"),
        ({"language": 1}, "language must be a text"),
        (
            {"b": 1, "answer": "Paris", "c": 2},
            "'answer' is no field of a question; they are messages, answers, category, language",
        ),
        ({"a\x1b": 1}, r"'a\\x1b' is no field"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(change: dict[str, Any], error: str, tmp_path: Path) -> None:
    name = file_of(tmp_path, json.dumps(GOOD), json.dumps({**GOOD, **change}))
    with pytest.raises(CommandError, match=f"{name}, line 2: {error}"):
        read_set(name)


@pytest.mark.parametrize(("line", "error"), [("{", "the line is not JSON"), ("[]", "must be a JSON object")])
def test_a_line_that_is_no_object(line: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=f"line 1: .*{error}"):
        read_set(file_of(tmp_path, line))


def test_a_set_that_is_none(tmp_path: Path) -> None:
    for name in ("", "all", "\udcff"):
        with pytest.raises(
            CommandError, match=r"can be no set's name .*: give a file, or one of arithmetic, q"
        ):
            read_set(name)
    with pytest.raises(CommandError, match="does not exist: give a file, or one of arithmetic, questions"):
        read_set(str(tmp_path / "nowhere"))
    with pytest.raises(CommandError, match=r"cannot be read: .*Is a directory"):
        read_set(str(tmp_path))
    with pytest.raises(CommandError, match="holds no question"):
        read_set(file_of(tmp_path, ""))
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b"\xe9")
    with pytest.raises(CommandError, match=r"cannot be read: .*give a file of UTF-8 text"):
        read_set(str(latin))


@pytest.mark.parametrize("field", ["messages", "answers", "category", "language", "x" * 3_000_000])
def test_an_error_is_short_however_long_the_line(field: str, tmp_path: Path) -> None:
    name = file_of(tmp_path, json.dumps({**GOOD, field: {"long": "x" * 3_000_000}}))
    with pytest.raises(CommandError) as caught:
        read_set(name)
    assert len(caught.value.message) < len(name) + 300


def test_a_file_with_a_byte_order_mark_and_a_question_of_a_mark_alone(tmp_path: Path) -> None:
    question = {**GOOD, "messages": [{"role": "user", "content": "?"}]}
    name = file_of(tmp_path, "\ufeff" + json.dumps(question))
    assert read_set(name).questions[0].messages[0]["content"] == "?"
