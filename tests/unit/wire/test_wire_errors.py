"""Errors cross a process boundary as one line."""

from __future__ import annotations

import pytest

from ernie_wire import errors


def leaves(root: type[errors.ErnieError]) -> list[type[errors.ErnieError]]:
    """Return the leaves that the wire knows; a process may have more of its own, that never leave it."""
    own = [child for child in root.__subclasses__() if child.__module__ == errors.__name__]
    return [leaf for child in own for leaf in (child, *leaves(child))]


@pytest.mark.parametrize("leaf", leaves(errors.ErnieError), ids=lambda leaf: leaf.__name__)
@pytest.mark.parametrize("param", [None, "messages[0].content", ""])
def test_every_error_survives_its_line(leaf: type[errors.ErnieError], param: str | None) -> None:
    error = errors.parse_error(leaf("two\nlines: [a]", param).to_line())
    assert type(error) is leaf
    assert (error.message, error.param) == ("two\nlines: [a]", param)


def test_any_other_text_is_an_internal_error() -> None:
    for text in ("Stub process 'x' is not healthy.", "unknown_code: x", ""):
        error = errors.parse_error(text)
        assert type(error) is errors.InternalError
        assert error.message == text


def test_codes_are_unique() -> None:
    codes = [leaf.code for leaf in leaves(errors.ErnieError)]
    assert len(codes) == len(set(codes))
