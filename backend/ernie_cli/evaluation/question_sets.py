"""Question sets: ``.jsonl`` files of questions with the answers that count as right (docs/quality.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_cli.checkout import checkout
from ernie_cli.errors import CommandError
from ernie_cli.terminal_text import escaped, is_unicode, shown
from ernie_wire.errors import InvalidValue
from ernie_wire.json_text import read_json_object

_FIELDS = ("messages", "answers", "category", "language")
_ROLES = ("system", "user", "assistant")
_TO_HALF_WIDTH = {code: code - 0xFF01 + 0x21 for code in range(0xFF01, 0xFF5F)}
_END_MARKS = ".!?。… "
ALL = "all"
"""What a report calls the total; no set, category or language may have this name."""


def normalized(text: str) -> str:
    """Return a text without what is not compared: case, full-width ASCII, repeated spaces, marks at the end."""
    one_line = " ".join(text.translate(_TO_HALF_WIDTH).split())
    return one_line.casefold().rstrip(_END_MARKS)


def is_exact(answer: str, expected: Iterable[str]) -> bool:
    """Return whether an answer equals one of the expected answers, all of them normalized."""
    return normalized(answer) in {normalized(each) for each in expected}


@dataclass(frozen=True)
class Question:
    """One line of a set.

    Attributes:
        set_name: the file's name without its suffix.
        line: its number in the file, from 1.
        messages: role and content of each message; the last one is the user's.
        answers: what counts as right; at least one.
        category: its subject.
        language: of the question.
    """

    set_name: str
    line: int
    messages: tuple[dict[str, str], ...]
    answers: tuple[str, ...]
    category: str
    language: str


def read_sets(paths: Sequence[str] = ()) -> list[Question]:
    """Return the questions in these files and directories; without any path, those of the checkout.

    Args:
        paths: each a file, or a directory of ``.jsonl`` files; a file that occurs twice is read once.

    Raises:
        CommandError: a path cannot be read, two files have one name, or a line is invalid (names its field).
    """
    files: dict[str, Path] = {}
    for file in [file for path in paths or [_default_directory()] for file in _files(path)]:
        if (other := files.setdefault(file.stem, file)) != file:
            raise CommandError(
                f"--set {escaped(str(other))} and {escaped(str(file))} have the same name; rename one of them"
            )
    return [question for file in files.values() for question in _read_set(file)]


def _default_directory() -> str:
    root = checkout()
    if root is None:
        raise CommandError(
            "--set is missing: only a checkout of ernie-triton has question sets of its own; give a file of one"
            " JSON object a line, or a directory of such files (docs/quality.md)"
        )
    return str(root / "benchmarks" / "evaluation")


def _files(path: str) -> list[Path]:
    if not path or not is_unicode(path):
        raise CommandError(f"--set '{shown(path)}' is not a path; give a file or a directory")
    try:
        files = sorted(Path(path).glob("*.jsonl")) if Path(path).is_dir() else [Path(path)]
    except OSError as error:
        raise _unreadable(path, error) from None
    if not files:
        raise CommandError(f"--set {escaped(path)} is a directory without .jsonl files; give a file")
    return files


def _read_set(file: Path) -> list[Question]:
    name = escaped(str(file))
    if file.stem == ALL or not is_unicode(file.stem):
        raise CommandError(f"--set {name} needs another name: {ALL} is the name of the total; rename it")
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise CommandError(f"--set {name} does not exist; give a file or a directory") from None
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(str(file), error) from None
    questions = [_question(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise CommandError(f"--set {name} holds no question; give a file of one JSON object a line")
    return questions


def _unreadable(path: str, error: Exception) -> CommandError:
    return CommandError(f"--set {escaped(path)} cannot be read: {shown(str(error))}; give a file of UTF-8 text")


def _question(file: Path, number: int, line: str) -> Question:
    try:
        return _read_question(file.stem, number, read_json_object(line, "the line"))
    except InvalidValue as error:
        raise CommandError(f"{escaped(str(file))}, line {number}: {error}") from None


def _read_question(set_name: str, number: int, value: Mapping[str, Any]) -> Question:
    for field in sorted(value.keys() - set(_FIELDS)):
        raise InvalidValue(f"unknown field '{shown(field)}'; known are {', '.join(_FIELDS)}", shown(field))
    messages = tuple(_message(each, f"messages[{at}]") for at, each in enumerate(_list(value, "messages")))
    if messages[-1]["role"] != "user":
        raise InvalidValue("the last of messages must be the user's: it is the question", "messages")
    answers = tuple(_answer(each, f"answers[{at}]") for at, each in enumerate(_list(value, "answers")))
    category, language = _label(value, "category"), _label(value, "language")
    return Question(set_name, number, messages, answers, category, language)


def _list(value: Mapping[str, Any], field: str) -> list[Any]:
    found = value.get(field)
    if not isinstance(found, list) or not found:
        raise InvalidValue(f"{field} must be a list of at least one, not {shown(repr(found))}", field)
    return found


def _message(value: object, field: str) -> dict[str, str]:
    if not isinstance(value, dict) or value.keys() != {"role", "content"}:
        raise InvalidValue(f"{field} must be an object of role and content, not {shown(repr(value))}", field)
    if value["role"] not in _ROLES:
        role = shown(repr(value["role"]))
        raise InvalidValue(f"{field}.role must be one of {', '.join(_ROLES)}, not {role}", field)
    return {"role": value["role"], "content": _text(value["content"], f"{field}.content")}


def _answer(value: object, field: str) -> str:
    text = _text(value, field)
    if not normalized(text):
        raise InvalidValue(
            f"{field} must be more than end marks, which are not compared, not {shown(text)}", field
        )
    return text


def _label(value: Mapping[str, Any], field: str) -> str:
    text = _text(value.get(field), field)
    if text == ALL:
        raise InvalidValue(f"{field} must not be {ALL}, which is the name of the total", field)
    return text


def _text(value: object, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidValue(f"{field} must be a text of more than spaces, not {shown(repr(value))}", field)
    if not is_unicode(value):
        raise InvalidValue(f"{field} holds half of a surrogate pair, which is not text: {shown(value)}", field)
    return value
