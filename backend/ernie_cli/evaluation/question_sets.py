"""Sets of questions: files of one JSON object a line, those that come with the package and a user's own.

This module must not know who is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_cli.errors import CommandError
from ernie_cli.evaluation.exact_match import normalised
from ernie_cli.evaluation.terminal_text import escaped, is_unicode, shown
from ernie_wire.errors import InvalidValue
from ernie_wire.json_text import read_json_object

_DIRECTORY = Path(__file__).parent
_FIELDS = ("messages", "answers", "category", "language")
_ROLES = ("system", "user", "assistant")
ALL = "all"
"""What a report calls the whole; no set, category or language may have this name."""


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
    known = ", ".join(shipped_sets())
    if not name or name == ALL or not is_unicode(name):
        raise CommandError(
            f"--set '{shown(name)}' can be no set's name ({ALL} is the total's): give a file, or one of {known}"
        )
    path = _DIRECTORY / f"{name}.jsonl" if name in shipped_sets() else Path(name)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise CommandError(f"--set {escaped(name)} does not exist: give a file, or one of {known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            f"--set {escaped(name)} cannot be read: {shown(str(error))}; give a file of UTF-8 text"
        ) from None
    questions = [_question(name, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise CommandError(f"--set {escaped(name)} holds no question: give a file of one JSON object a line")
    return QuestionSet(name, tuple(questions))


def _question(name: str, number: int, line: str) -> Question:
    try:
        value = read_json_object(line, "the line")
        _check_fields(value)
        messages = tuple(_message(each, f"messages[{at}]") for at, each in enumerate(_list(value, "messages")))
        _check_last(messages[-1])
        answers = tuple(_answer(each, f"answers[{at}]") for at, each in enumerate(_list(value, "answers")))
        category, language = (_kind(value.get(field), field) for field in ("category", "language"))
    except InvalidValue as error:
        raise CommandError(f"{escaped(name)}, line {number}: {error}") from None
    return Question(number, messages, answers, category, language)


def _check_fields(value: Mapping[str, Any]) -> None:
    for field in sorted(value.keys() - set(_FIELDS)):
        raise InvalidValue(
            f"'{shown(field)}' is no field of a question; they are {', '.join(_FIELDS)}", shown(field)
        )


def _check_last(message: Mapping[str, str]) -> None:
    if message["role"] != "user":
        raise InvalidValue("the last of messages must be the user's: it is what is asked", "messages")


def _list(value: Mapping[str, Any], field: str) -> list[Any]:
    found = value.get(field)
    if not isinstance(found, list) or not found:
        raise InvalidValue(f"{field} must be a list of at least one, not {shown(repr(found))}", field)
    return found


def _message(value: object, field: str) -> dict[str, str]:
    if not isinstance(value, dict) or value.keys() != {"role", "content"}:
        raise InvalidValue(f"{field} must be an object of role and content, not {shown(repr(value))}", field)
    if value["role"] not in _ROLES:
        raise InvalidValue(
            f"{field}.role must be one of {', '.join(_ROLES)}, not {shown(repr(value['role']))}", field
        )
    return {"role": value["role"], "content": _text(value["content"], f"{field}.content")}


def _text(value: object, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidValue(f"{field} must be a text of more than spaces, not {shown(repr(value))}", field)
    if not is_unicode(value):
        raise InvalidValue(f"{field} holds half of a surrogate pair, which is no text: {shown(value)}", field)
    return value


def _answer(value: object, field: str) -> str:
    text = _text(value, field)
    if not normalised(text):
        raise InvalidValue(
            f"{field} must be more than end marks, which are not compared, not {shown(text)}", field
        )
    return text


def _kind(value: object, field: str) -> str:
    text = _text(value, field)
    if text == ALL:
        raise InvalidValue(f"{field} must not be {ALL}, which stands for every one of them", field)
    return text
