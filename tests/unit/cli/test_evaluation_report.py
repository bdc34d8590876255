"""The table of an evaluation, its wrong answers, and the same as JSON."""

from __future__ import annotations

from ernie_cli.evaluation.question_sets import Question
from ernie_cli.evaluation.report import Outcome, table, to_json, wrong_lines


def outcome(set_name: str, category: str, language: str, answer: str, line: int = 1) -> Outcome:
    """Return an outcome whose right answer is "yes"."""
    question = Question(line, ({"role": "user", "content": "Is it?"},), ("Yes.",), category, language)
    return Outcome(set_name, question, answer)


OUTCOMES = [
    outcome("b", "words", "zh", "yes", 1),
    outcome("b", "words", "en", "no", 2),
    outcome("b", "words", "en", "YES!", 3),
    outcome("b", "capitals", "en", "yes", 4),
    outcome("a", "sums", "en", "no", 1),
    outcome("a", "sums", "en", "never", 2),
]


def test_the_table_counts_each_kind_each_set_and_all() -> None:
    assert table(OUTCOMES) == [
        "| set | category | language | exact | of |     % |",
        "| --- | -------- | -------- | ----: | -: | ----: |",
        "| b   | capitals | en       |     1 |  1 | 100.0 |",
        "| b   | words    | en       |     1 |  2 |  50.0 |",
        "| b   | words    | zh       |     1 |  1 | 100.0 |",
        "| b   | all      | all      |     3 |  4 |  75.0 |",
        "| a   | sums     | en       |     0 |  2 |   0.0 |",
        "| a   | all      | all      |     0 |  2 |   0.0 |",
        "| all | all      | all      |     3 |  6 |  50.0 |",
    ]


def test_some_wrong_answers_of_each_set() -> None:
    assert wrong_lines(OUTCOMES, 1) == [
        "  b:2  Is it?  said: 'no'  expected: Yes.",
        "  a:1  Is it?  said: 'no'  expected: Yes.",
        "  (1 more of a: --json lists all)",
    ]
    assert wrong_lines(OUTCOMES[:1], 5) == []


def test_json_has_the_rows_and_every_wrong_answer() -> None:
    report = to_json(OUTCOMES)
    assert len(report["rows"]) == 7
    assert report["rows"][1] == {
        "set": "b", "category": "words", "language": "en", "exact": 1, "count": 2, "percent": 50.0
    }  # fmt: skip
    assert [(wrong["set"], wrong["line"], wrong["answer"]) for wrong in report["wrong"]] == [
        ("b", 2, "no"),
        ("a", 1, "no"),
        ("a", 2, "never"),
    ]
    assert report["wrong"][0]["expected"] == ("Yes.",)
