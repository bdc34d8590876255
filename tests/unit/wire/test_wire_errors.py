"""Errors cross a process boundary as one line."""

from __future__ import annotations

import re

import pytest

from ernie_wire import errors


def leaves(root: type[errors.ErnieError]) -> list[type[errors.ErnieError]]:
    """Return the tree below ``root``; other modules may have grown more leaves, which never cross a process."""
    children = [child for child in root.__subclasses__() if child.__module__ == errors.__name__]
    return [leaf for child in children for leaf in (child, *leaves(child))]


@pytest.mark.parametrize("leaf", leaves(errors.ErnieError), ids=lambda leaf: leaf.__name__)
@pytest.mark.parametrize("param", [None, "messages[0].content", ""])
def test_every_error_survives_its_line(leaf: type[errors.ErnieError], param: str | None) -> None:
    error = errors.parse_error(leaf("two\nlines: [a]", param).to_line())
    assert error is not None
    assert type(error) is leaf
    assert (error.message, error.param) == ("two\nlines: [a]", param)


@pytest.mark.parametrize("text", ["Stub process 'x' is not healthy.", "unknown_code: x", "", "timeout(x): y"])
def test_any_other_text_is_none_of_ours(text: str) -> None:
    assert errors.parse_error(text) is None


@pytest.mark.parametrize(
    ("message", "param"), [("\ud800 is no text", "\udfff"), ("x" * 5_000_000, "y" * 5000)], ids=["odd", "long"]
)
def test_an_error_fits_its_line_whatever_it_names(message: str, param: str) -> None:
    line = errors.InvalidValue(message, param).to_line()
    assert len(line.encode()) < 3000
    error = errors.parse_error(line)
    assert type(error) is errors.InvalidValue
    assert error.message[:5] == message.encode(errors="backslashreplace").decode()[:5]


@pytest.mark.parametrize(
    "error",
    [
        errors.ContextLengthExceeded.of(100, 98, 5, "messages"),
        errors.ContextLengthExceeded.of(100, 98, 5, "text_input", is_estimate=True),
        errors.ContextLengthExceeded.of(100, 98, 5, note="The KV cache holds no more."),
    ],
)
def test_clients_know_that_the_context_is_exceeded(error: errors.ContextLengthExceeded) -> None:
    """What LiteLLM, LangChain and those that read the numbers look for, each in what it is given."""
    assert "this model's maximum context length is" in error.message.lower()
    assert error.code == "context_length_exceeded"
    assert error.code in error.message
    for expression, numbers in (
        (r"maximum context length is (\d+) tokens\.", ("100",)),
        (r"you requested (\d+) tokens", ("103",)),
        (r"\((\d+)[a-z ]* in the (?:messages|prompt), (\d+) in the completion\)", ("98", "5")),
    ):
        found = re.search(expression, error.message)
        assert found is not None
        assert found.groups() == numbers


def test_codes_are_unique() -> None:
    codes = [leaf.code for leaf in leaves(errors.ErnieError)]
    assert len(codes) == len(set(codes))
