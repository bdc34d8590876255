"""The report of an evaluation: a table by set, category and language, the wrong answers, the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len

from ernie_cli.evaluation.client import Answer
from ernie_cli.evaluation.question_sets import ALL, Question, is_exact
from ernie_cli.terminal_text import MAX_SHOWN, escaped, shown

_HEADER = ("set", "category", "language", "exact", "of", "%")


@dataclass(frozen=True)
class Outcome:
    """One question and its answer."""

    question: Question
    answer: Answer

    @property
    def is_exact(self) -> bool:
        """Whether the answer counts as right; a refusal does not."""
        return is_exact(self.answer.text, self.question.answers)

    @property
    def place(self) -> str:
        """Set and line of the question."""
        return f"{escaped(self.question.set_name)}:{self.question.line}"


@dataclass(frozen=True)
class Row:
    """How many answers of one kind are exact; ``all`` means every set, category or language."""

    set_name: str
    category: str
    language: str
    exact: int
    count: int

    @property
    def percent(self) -> float:
        """Percentage of exact answers."""
        return 100 * self.exact / self.count


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return a row for each set, category and language, one for each set, and the total; in the sets' order."""
    found: list[Row] = []
    for name in dict.fromkeys(outcome.question.set_name for outcome in outcomes):
        of_set = [outcome for outcome in outcomes if outcome.question.set_name == name]
        by_kind: dict[tuple[str, str], list[Outcome]] = {}
        for outcome in of_set:
            by_kind.setdefault((outcome.question.category, outcome.question.language), []).append(outcome)
        found += [_row(name, *kind, by_kind[kind]) for kind in sorted(by_kind)]
        found.append(_row(name, ALL, ALL, of_set))
    return [*found, _row(ALL, ALL, ALL, outcomes)]


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the lines of the table, which is Markdown too."""
    cells = [_HEADER, *(_cells(row) for row in rows(outcomes))]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    rule = [f"{'-' * width}" for width in widths[:3]] + [f"{'-' * (width - 1)}:" for width in widths[3:]]
    return [_line(line, widths) for line in (cells[0], rule, *cells[1:])]


def wrong_lines(outcomes: Sequence[Outcome], most: int) -> list[str]:
    """Return a line for each of the first ``most`` wrong answers of every set."""
    lines: list[str] = []
    for name in dict.fromkeys(outcome.question.set_name for outcome in outcomes):
        wrong = [outcome for outcome in outcomes if outcome.question.set_name == name and not outcome.is_exact]
        lines += [_wrong(outcome) for outcome in wrong[:most]]
        if len(wrong) > most:
            lines.append(f"  ({len(wrong) - most} more of {escaped(name)}: --json lists all)")
    return lines


def refused_line(outcomes: Sequence[Outcome]) -> str:
    """Return how many questions were refused, and the first one's place and reason; "" if none was."""
    refused = [outcome for outcome in outcomes if outcome.answer.refusal]
    if not refused:
        return ""
    first = refused[0]
    return (
        f"{len(refused)} of {counted(len(outcomes))} refused, which counts as wrong; "
        f"the first, {first.place}, with {first.answer.refusal}"
    )


def answered_by(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the names that the answering models gave."""
    return sorted({outcome.answer.model for outcome in outcomes} - {""})


def counted(number: int) -> str:
    """Return a number of questions with its noun."""
    return f"{number} question" if number == 1 else f"{number} questions"


def to_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the answering models, the table's rows and every wrong answer."""
    return {
        "answered_by": answered_by(outcomes),
        "rows": [
            {
                "set": row.set_name,
                "category": row.category,
                "language": row.language,
                "exact": row.exact,
                "count": row.count,
                "percent": round(row.percent, 2),
            }
            for row in rows(outcomes)
        ],
        "wrong": [
            {
                "set": outcome.question.set_name,
                "line": outcome.question.line,
                "messages": outcome.question.messages,
                "expected": outcome.question.answers,
                "answer": outcome.answer.text,
                "refusal": outcome.answer.refusal or None,
            }
            for outcome in outcomes
            if not outcome.is_exact
        ],
    }


def _row(name: str, category: str, language: str, outcomes: Sequence[Outcome]) -> Row:
    return Row(name, category, language, sum(outcome.is_exact for outcome in outcomes), len(outcomes))


def _cells(row: Row) -> tuple[str, ...]:
    names = (escaped(row.set_name), shown(row.category), shown(row.language))
    figures = (str(row.exact), str(row.count), f"{row.percent:.1f}")
    return (*(name.replace("|", "\\|") for name in names), *figures)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return a line of columns of these widths on a terminal, where a Chinese character takes two cells."""
    texts = [cell + " " * (width - cell_len(cell)) for cell, width in zip(cells[:3], widths, strict=False)]
    figures = [cell.rjust(width) for cell, width in zip(cells[3:], widths[3:], strict=True)]
    return f"| {' | '.join([*texts, *figures])} |"


def _wrong(outcome: Outcome) -> str:
    *before, last = (message["content"] for message in outcome.question.messages)
    asked = " / ".join((*before, last))
    if before and len(asked) > MAX_SHOWN:
        asked = f"(...) / {last}"
    expected = shown(" or ".join(outcome.question.answers))
    answer = outcome.answer
    said = f"refused: {answer.refusal}" if answer.refusal else f"said: '{shown(answer.text)}'"
    return f"  {outcome.place}  {shown(asked)}  {said}  expected: {expected}"
