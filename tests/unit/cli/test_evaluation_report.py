"""The table of an evaluation, its wrong answers, and the same as JSON."""

from __future__ import annotations

from rich.cells import cell_len

from ernie_cli.evaluation.client import Answer
from ernie_cli.evaluation.question_sets import Question
from ernie_cli.evaluation.report import Outcome, refused_line, table, to_json, wrong_lines


def outcome(set_name: str, category: str, language: str, answer: str, line: int = 1) -> Outcome:
    """Return an outcome whose right answer is "yes"."""
    question = Question(set_name, line, ({"role": "user", "content": "Is it?"},), ("Yes.",), category, language)
    return Outcome(question, Answer(answer, "tiny"))


def asked(*contents: str, answer: Answer, expected: str = "Yes.", set_name: str = "a") -> Outcome:
    """Return an outcome of line 3 that is wrong."""
    messages = tuple({"role": "user", "content": content} for content in contents)
    return Outcome(Question(set_name, 3, messages, (expected,), "words", "en"), answer)


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
    assert report["answered_by"] == ["tiny"]
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


def test_columns_are_as_wide_as_they_look() -> None:
    lines = table([outcome("集", "首都", "zh", "yes"), outcome("集", "talk", "zh", "yes")])
    assert len({cell_len(line) for line in lines}) == 1
    assert [line.split("|")[2] for line in lines[2:4]] == [" talk     ", " 首都     "]


def test_no_text_of_a_set_breaks_a_line_or_reaches_the_terminal_as_a_control() -> None:
    lines = table([outcome("a\nb", "one|two\x1b[2J", "x" * 500, "yes")])
    assert lines[2].startswith(r"| a\nb | one\|two\x1b[2J | " + "x" * 79 + "… |")
    (line,) = wrong_lines(
        [asked("Is\nit?", answer=Answer("\x1b[31mno\r"), expected="y\te", set_name="a\x07")], 5
    )
    assert line == r"  a\x07:3  Is\nit?  said: '\x1b[31mno\r'  expected: y\te"


def test_long_texts_are_cut_after_a_word_and_of_long_chats_the_question_stays() -> None:
    (line,) = wrong_lines([asked("word " * 40, answer=Answer("no " * 1000_000), expected="y" * 1000)], 5)
    assert line == f"  a:3  {'word ' * 14}word…  said: '{'no ' * 25}no…'  expected: {'y' * 79}…"
    (line,) = wrong_lines([asked("word " * 40, "5", "Plus 3?", answer=Answer("9"))], 5)
    assert line.startswith("  a:3  (...) / Plus 3?  said:")


def test_refused_questions_are_told() -> None:
    refused = asked("Is it?", answer=Answer(refusal="status 400: too long"))
    assert wrong_lines([refused], 5) == ["  a:3  Is it?  refused: status 400: too long  expected: Yes."]
    assert refused_line(OUTCOMES) == ""
    assert refused_line([*OUTCOMES, refused, refused]) == (
        "2 of 8 questions refused, which counts as wrong; the first, a:3, with status 400: too long"
    )
    assert [wrong["refusal"] for wrong in to_json([*OUTCOMES[-1:], refused])["wrong"]] == [
        None,
        "status 400: too long",
    ]
