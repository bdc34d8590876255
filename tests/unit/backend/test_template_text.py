"""Text with origins: each operation gives the value that ``str`` gives, and keeps what is whose."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.chat.template_text import TemplateText, joined, origins_of, template_written

# A character says whose it is: the template's are capitals and blanks, the client's small letters and newlines.
TEMPLATE = st.text("AB \t", max_size=4)
CLIENT = st.text("ab\n\x85", max_size=4)
MIXED = st.lists(st.one_of(TEMPLATE.map(template_written), CLIENT), max_size=5).map(joined)
SEPARATORS = st.one_of(st.text("AaB ", min_size=1, max_size=2), st.none())
INDICES = st.one_of(st.none(), st.integers(-9, 9))
STRIPPED = st.one_of(st.none(), st.text("Aa \n", max_size=3))


def _check(found: object, expected: object) -> None:
    """The same value, and its characters have the right origins."""
    assert found == expected
    for text in [found] if isinstance(found, str) else list(found):  # type: ignore[call-overload]
        assert isinstance(text, TemplateText)
        assert [origin == 1 for origin in origins_of(text)] == [each in "AB \t" for each in text]


@given(MIXED, MIXED, CLIENT, st.integers(-1, 3))
def test_sums_products_and_joins(text: TemplateText, other: TemplateText, client: str, count: int) -> None:
    plain, added = "".join(text), "".join(other)
    _check(text + other, plain + added)
    _check(text + client, plain + client)
    _check(client + text, client + plain)
    _check(text * count, plain * count)
    _check(count * text, plain * count)
    _check(text.join([client, other, client]), plain.join([client, added, client]))
    _check(joined([text, client, other], other), added.join([plain, client, added]))
    _check(list(text), list(plain))


@given(MIXED, INDICES, INDICES, st.sampled_from([None, 1, 2, -1, -2]), STRIPPED)
def test_slices_and_strips(
    text: TemplateText, start: int | None, end: int | None, step: int | None, chars: str | None
) -> None:
    plain = "".join(text)
    _check(text[start:end:step], plain[start:end:step])
    for index in range(-len(plain), len(plain)):
        _check(text[index], plain[index])
    for name in ("strip", "lstrip", "rstrip"):
        _check(getattr(text, name)(chars), getattr(plain, name)(chars))
    _check(text.removeprefix(chars or ""), plain.removeprefix(chars or ""))
    _check(text.removesuffix(chars or ""), plain.removesuffix(chars or ""))


@given(MIXED, SEPARATORS, st.integers(-1, 3), st.booleans(), MIXED)
def test_splits_and_replacements(
    text: TemplateText, separator: str | None, most: int, is_kept: bool, new: TemplateText
) -> None:
    plain = "".join(text)
    _check(text.split(separator, most), plain.split(separator, most))
    _check(text.rsplit(separator, most), plain.rsplit(separator, most))
    _check(text.splitlines(is_kept), plain.splitlines(is_kept))
    if separator is not None:
        for name in ("partition", "rpartition"):
            found, expected = getattr(text, name)(separator), getattr(plain, name)(separator)
            assert found == expected
            _check([found[0], found[2]], [expected[0], expected[2]])
        _check(text.replace(separator, new, most), plain.replace(separator, "".join(new), most))


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title, str.capitalize])
def test_changes_of_case(change: Callable[[str], str]) -> None:
    name = change.__name__
    text = template_written("<s") + "éA>"
    changed = getattr(text, name)()
    assert (changed, origins_of(changed)) == (change("<séA>"), b"\1\1\0\0\0")
    longer = getattr(template_written("<s>ŉ"), name)()
    assert origins_of(longer) == (b"\1" * 4 if len(longer) == 4 else bytes(len(longer)))


@pytest.mark.parametrize(
    "operation",
    [
        lambda text: "".join([text]),
        lambda text: text.center(9),
        lambda text: text.replace("", "-"),
        lambda text: text.translate({}),
        lambda text: TemplateText(text + ""),
    ],
)
def test_what_has_no_known_origin_counts_as_the_client_s(operation: Callable[[Any], str]) -> None:
    assert 1 not in origins_of(operation(template_written("<s>")))


def test_other_operands_fail_as_with_plain_strings() -> None:
    text: Any = template_written("a")
    with pytest.raises(TypeError, match="unsupported operand"):
        text + 1
    with pytest.raises(TypeError, match="unsupported operand"):
        1 + text
    with pytest.raises(TypeError, match="can't multiply"):
        text * "b"
    with pytest.raises(TypeError, match="expected str instance, int found"):
        text.join(["b", 1])
    with pytest.raises(ValueError, match="empty separator"):
        text.split("")
    assert ({"a": 1}[text], text == "a", hash(text)) == (1, True, hash("a"))


@pytest.mark.parametrize(
    ("form", "values"),
    [
        ("<A %s B>", "a"),
        ("%%<%-5s|%5.1s>%d", ("ab", "b", 7)),
        ("%(a)s A %(b c)r", {"a": "x%s", "b c": [1]}),
        ("%*d<%.*f>", (5, 1, 2, 0.5)),
        ("%((a))s%%", {"(a)": "<B>"}),
        ("AB", ()),
    ],
)
def test_percent_formats(form: str, values: Any) -> None:
    found = template_written(form) % values
    assert found == form % values
    assert "".join(char for char, origin in zip(found, origins_of(found), strict=True) if origin) == (
        "" if "((" in form else re.sub(r"%(\([^)]*\))?[-*.\d]*[a-z%]", "", form)
    )
    assert origins_of((template_written("A") + form) % values).find(1) == -1, (
        "a format that is a client's in part"
    )


def test_a_format_of_a_client_takes_no_time() -> None:
    form = template_written("A") + "%" + "0" * 10_000
    start = time.thread_time()
    with pytest.raises(ValueError, match="incomplete format"):
        form % 1
    assert time.thread_time() - start < 0.2, "the pattern of conversions would take seconds"
