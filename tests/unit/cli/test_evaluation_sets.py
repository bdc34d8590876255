"""Reading sets of questions: those of the checkout are well formed, and a bad line is named with its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ernie_cli.errors import CommandError
from ernie_cli.evaluation import question_sets
from ernie_cli.evaluation.question_sets import Question, read_sets

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


def read_set(path: str) -> list[Question]:
    """Return the questions of a file."""
    return read_sets([path])


def test_a_checkout_has_sets_of_its_own() -> None:
    found = read_sets()
    names = list(dict.fromkeys(question.set_name for question in found))
    assert names == ["arithmetic", "questions"]
    for name in names:
        questions = [question for question in found if question.set_name == name]
        assert len(questions) >= 250
        assert {question.language for question in questions} == {"en", "zh"}
        asked = {json.dumps(question.messages) for question in questions}
        assert len(asked) == len(questions)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    found = read_set(file_of(tmp_path, json.dumps(GOOD, ensure_ascii=False), "", json.dumps(GOOD)))
    assert {question.set_name for question in found} == {"own"}
    assert [question.line for question in found] == [1, 3]
    assert found[0].messages == ({"role": "user", "content": "法国的首都是哪里？"},)
    assert found[0].answers == ("法国的首都是巴黎。", "巴黎")
    assert (found[0].category, found[0].language) == ("capitals", "zh")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"messages": []}, "messages"),
        ({"messages": ["Hi"]}, r"messages\[0\] .*Hi"),
        (
            {"messages": [{"role": "bot", "content": "x"}]},
            r"messages\[0\]\.role",
        ),
        ({"messages": [{"role": "user", "content": 7}]}, r"messages\[0\]\.content .*7"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "user"),
        ({"answers": "Paris"}, "answers .*Paris"),
        ({"answers": ["Paris", " "]}, r"answers\[1\] .*' '"),
        ({"answers": ["Paris", " 。"]}, r"answers\[1\] .* 。"),
        ({"answers": ["\ud800"]}, r"answers\[0\] .*\\ud800"),
        ({"messages": [{"role": "user", "content": "\udc80"}]}, r"messages\[0\]\.content .*surrogate"),
        ({"category": None}, "category"),
        ({"category": "all"}, "category .*all"),
        ({"category": "\ud800"}, "category .*surrogate"),
        ({"language": 1}, "language"),
        (
            {"b": 1, "answer": "Paris", "c": 2},
            "'answer'",
        ),
        ({"a\x1b": 1}, r"'a\\x1b'"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(change: dict[str, Any], error: str, tmp_path: Path) -> None:
    name = file_of(tmp_path, json.dumps(GOOD), json.dumps({**GOOD, **change}))
    with pytest.raises(CommandError, match=f"{name}, line 2: .*{error}"):
        read_set(name)


@pytest.mark.parametrize(("line", "error"), [("{", "JSON"), ("[]", "object")])
def test_a_line_that_is_no_object(line: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=f"line 1: .*{error}"):
        read_set(file_of(tmp_path, line))


def test_a_set_that_is_none(tmp_path: Path) -> None:
    for path in ("", "\udcff"):
        with pytest.raises(CommandError, match="is not a path"):
            read_set(path)
    with pytest.raises(CommandError, match="does not exist"):
        read_set(str(tmp_path / "nowhere"))
    with pytest.raises(CommandError, match=r"without \.jsonl files"):
        read_set(str(tmp_path))
    with pytest.raises(CommandError, match="name of the total"):
        read_set(str(tmp_path / "all.jsonl"))
    with pytest.raises(CommandError, match="no question"):
        read_set(file_of(tmp_path, ""))
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b"\xe9")
    with pytest.raises(CommandError, match="UTF-8"):
        read_set(str(latin))


def test_a_directory_is_all_its_files_and_a_file_is_read_once(tmp_path: Path) -> None:
    file = file_of(tmp_path, json.dumps(GOOD))
    (tmp_path / "another.jsonl").write_text(json.dumps(GOOD))
    (tmp_path / "notes.txt").write_text("not a set")
    assert [each.set_name for each in read_sets([file, str(tmp_path)])] == ["own", "another"]


def test_a_path_that_the_system_refuses_is_an_error() -> None:
    with pytest.raises(CommandError, match=r"cannot be read: .*too long"):
        read_sets(["x" * 5000])


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(CommandError, match="same name"):
        read_sets([file_of(tmp_path, json.dumps(GOOD)), file_of(tmp_path / "folder", json.dumps(GOOD))])


def test_an_installed_package_has_no_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question_sets, "checkout", lambda: None)
    with pytest.raises(CommandError, match=r"--set is missing.*docs/quality\.md"):
        read_sets()


@pytest.mark.parametrize("field", ["messages", "answers", "category", "language", "x" * 3_000_000])
def test_an_error_is_short_however_long_the_line(field: str, tmp_path: Path) -> None:
    name = file_of(tmp_path, json.dumps({**GOOD, field: {"long": "x" * 3_000_000}}))
    with pytest.raises(CommandError) as caught:
        read_set(name)
    assert len(caught.value.message) < len(name) + 300


def test_a_file_with_a_byte_order_mark_and_a_question_of_a_mark_alone(tmp_path: Path) -> None:
    question = {**GOOD, "messages": [{"role": "user", "content": "?"}]}
    name = file_of(tmp_path, "\ufeff" + json.dumps(question))
    assert read_set(name)[0].messages[0]["content"] == "?"
