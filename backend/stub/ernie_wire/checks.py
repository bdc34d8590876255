"""Conversions of values from clients, and checks against limits, whose errors name field, value and limit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ernie_wire.errors import InvalidValue

MAX_INTEGER = 2**63 - 1
MAX_TOKEN_ID = 2**31 - 1
MAX_NUMBER = 3.0e38
"""Every number is converted to float32 somewhere, whose maximum is 3.4e38."""


def check_number(
    name: str,
    value: object,
    low: float,
    high: float | None,
    *,
    integer: bool = False,
    is_low_excluded: bool = False,
    required: bool = False,
) -> None:
    """Check a number in ``[low, high]``, or in ``(low, high]``; None is valid unless ``required``.

    In any case it must not exceed ``MAX_INTEGER`` or ``MAX_NUMBER``.
    """
    if value is None and not required:
        return
    kinds = (int,) if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise InvalidValue(f"{name} is {value!r}; it must be {'an integer' if integer else 'a number'}", name)
    is_above = value > low if is_low_excluded else value >= low
    if not (is_above and (high is None or value <= high)):  # written so that NaN fails
        lower = f"{'above' if is_low_excluded else 'at least'} {low}"
        raise InvalidValue(
            f"{name} is {value}; it must be {lower if high is None else f'in [{low}, {high}]'}", name
        )
    limit = MAX_INTEGER if integer else MAX_NUMBER
    if value > limit:
        raise InvalidValue(f"{name} is too large; it must be at most {limit}", name)


def as_integer(value: object) -> object:
    """Return a whole float as an integer: some JSON libraries write all numbers as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_integers(values: object) -> object:
    """Return a list with ``as_integer`` applied to its floats."""
    if isinstance(values, list) and float in set(map(type, values)):
        return [as_integer(value) for value in values]
    return values


def as_count(value: object) -> object:
    """Return a number of log probabilities: true is 1, as in vLLM, and false is none."""
    if isinstance(value, bool):
        return 1 if value else None
    return as_integer(value)


def check_flag(name: str, value: object) -> None:
    """Check a boolean."""
    if not isinstance(value, bool):
        raise InvalidValue(f"{name} is {value!r}; it must be true or false", name)


def check_texts(name: str, values: tuple[object, ...], max_texts: int, max_bytes: int) -> None:
    """Check texts: at most ``max_texts``, none empty, together at most ``max_bytes`` of UTF-8."""
    if len(values) > max_texts:
        raise InvalidValue(f"{name} holds {len(values)} texts; at most {max_texts} are allowed", name)
    for text in values:
        if not isinstance(text, str) or not text:
            raise InvalidValue(f"{name} holds {text!r}; each of its texts must be a non-empty string", name)
    size = sum(len(str(text).encode(errors="surrogatepass")) for text in values)
    if size > max_bytes:
        raise InvalidValue(f"{name} holds {size} bytes of text; at most {max_bytes} are allowed", name)


def check_token_ids(name: str, values: Collection[Any], highest: int) -> None:
    """Check token ids: integers in ``[0, highest]``; fast for 100,000 of them."""
    are_integers = set(map(type, values)) <= {int}
    if are_integers and min(values, default=0) >= 0 and max(values, default=0) <= highest:
        return
    for token_id in values:
        if type(token_id) is not int or not 0 <= token_id <= highest:
            raise InvalidValue(f"{name} holds {token_id!r}; token ids are integers in [0, {highest}]", name)
