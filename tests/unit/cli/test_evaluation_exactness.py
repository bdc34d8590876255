"""What counts as an exact answer."""

from __future__ import annotations

import pytest

from ernie_cli.evaluation.question_sets import is_exact, normalized


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Beijing", "Beijing."),
        ("  beijing  ", "Beijing"),
        ("The capital of China\nis  BEIJING!", "the capital of China is Beijing."),
        ("北京。", "北京"),
        ("北京！", "北京?"),
        ("中国的首都是北京\u3000。", "中国的首都是北京。"),
        ("１２＋７＝１９", "12+7=19"),  # noqa: RUF001
        ("Ｏｋ", "OK"),  # noqa: RUF001
        ("-74", "-74."),
    ],
)
def test_the_same_answer_written_otherwise(answer: str, expected: str) -> None:
    assert is_exact(answer, [expected])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", "Beijing"),
        (".", "Beijing"),
        ("Beijing is it", "Beijing"),
        ("Bei jing", "Beijing"),
        ("74", "-74"),
        ("1.9", "19"),
        ("1, 2, 3", "1, 2"),
        ("北京市", "北京"),
    ],
)
def test_another_answer(answer: str, expected: str) -> None:
    assert not is_exact(answer, [expected])


def test_any_of_the_expected_ones_counts() -> None:
    assert is_exact("paris.", ["The capital of France is Paris.", "Paris"])
    assert not is_exact("London", ["The capital of France is Paris.", "Paris"])


def test_marks_inside_stay() -> None:
    assert normalized("Hello, Anna! How are you?!") == "hello, anna! how are you"
