"""Sets of questions: files of one JSON object a line, those that come with the package and a user's own.

This module must not know who is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_cli.errors import CommandError
from ernie_cli.evaluation.exactness import normalised
from ernie_wire.errors import InvalidValue
from ernie_wire.json_text import read_json_object

_DIRECTORY = Path(__file__).parent
_FIELDS = ("messages", "answers", "category", "language")
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Question:
    """One line of a set.

    Attributes:
        line: its number in the file, from 1.
        messages: role and content of each message; the last one is the user's.
        answers: what counts as right; at least one.
        category: what it is about.
        language: what it is asked in.
    """

    line: int
    messages: tuple[dict[str, str], ...]
    answers: tuple[str, ...]
    category: str
    language: str


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one file.

    Attributes:
        name: as given: a shipped set's name or a path.
        questions: at least one.
    """

    name: str
    questions: tuple[Question, ...]


def shipped_sets() -> list[str]:
    """Return the names of the sets that come with the package."""
    return sorted(path.stem for path in _DIRECTORY.glob("*.jsonl"))


def read_set(name: str) -> QuestionSet:
    """Return the set of this name, or else of the file at this path; empty lines are passed over.

    Raises:
        CommandError: there is none, it cannot be read, or a line is wrong; names the line and the field.
    """
    path = _DIRECTORY / f"{name}.jsonl" if name in shipped_sets() else Path(name)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        known = ", ".join(shipped_sets())
        raise CommandError(f"--set {name} does not exist: give a file, or one of {known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--set {name} cannot be read: {error}; give a file of UTF-8 text") from None
    questions = [_question(name, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise CommandError(f"--set {name} holds no question: give a file of one JSON object a line")
    return QuestionSet(name, tuple(questions))


def _question(name: str, number: int, line: str) -> Question:
    try:
        value = read_json_object(line, "the line")
        _check_fields(value)
        messages = tuple(_message(each, f"messages[{at}]") for at, each in enumerate(_list(value, "messages")))
        _check_last(messages[-1])
        answers = tuple(_text(each, f"answers[{at}]") for at, each in enumerate(_list(value, "answers")))
        category, language = (_text(value.get(field), field) for field in ("category", "language"))
    except InvalidValue as error:
        raise CommandError(f"{name}, line {number}: {error}") from None
    return Question(number, messages, answers, category, language)


def _check_fields(value: Mapping[str, Any]) -> None:
    for field in value.keys() - set(_FIELDS):
        raise InvalidValue(f"{field} is no field of a question; they are {', '.join(_FIELDS)}", field)


def _check_last(message: Mapping[str, str]) -> None:
    if message["role"] != "user":
        raise InvalidValue("the last of messages must be the user's: it is what is asked", "messages")


def _list(value: Mapping[str, Any], field: str) -> list[Any]:
    found = value.get(field)
    if not isinstance(found, list) or not found:
        raise InvalidValue(f"{field} must be a list of at least one, not {found!r}", field)
    return found


def _message(value: object, field: str) -> dict[str, str]:
    if not isinstance(value, dict) or value.keys() != {"role", "content"}:
        raise InvalidValue(f"{field} must be an object of role and content, not {value!r}", field)
    if value["role"] not in _ROLES:
        raise InvalidValue(f"{field}.role must be one of {', '.join(_ROLES)}, not {value['role']!r}", field)
    return {"role": value["role"], "content": _text(value["content"], f"{field}.content")}


def _text(value: object, field: str) -> str:
    if not isinstance(value, str) or not normalised(value):
        raise InvalidValue(f"{field} must be a text of more than spaces and end marks, not {value!r}", field)
    return value
