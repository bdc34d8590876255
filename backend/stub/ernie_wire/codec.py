"""Dataclasses as frames: a JSON header and raw buffers, derived from the types of the fields.

    bool, int, float, str, Mapping[str, ...]    as JSON
    bytes              text of one character per byte; the number of a buffer if long
    tuple[int, ...]    a list; the number of a buffer of int64 if long
    tuple[T, ...]      a list
    Mapping[int, ...]  an object
    NamedTuple         a list; its fields are integers
    dataclass          an object of the fields that differ from their defaults
    T | None           null, or T

When a frame is received, a value of another type than its field's is refused.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Generic, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from ernie_wire.frames import FrameError

MAX_INLINE = 64
"""Maximum number of bytes or integers of a field in the header; more are cheaper in a buffer."""

M = TypeVar("M")
T = TypeVar("T")
Buffers = list[bytes]
Encode = Callable[[Any, Buffers], Any]
"""Returns a value as JSON, and may append to the buffers."""
Decode = Callable[[Any, Buffers], Any]
"""Returns the value in JSON and buffers; raises TypeError, ValueError or LookupError if they are invalid."""


class MessageError(FrameError):
    """The peer sent a frame that is not a message: it is of another version, or not a peer at all."""


class Extensible:
    """Base of dataclasses to which later versions may add fields: unknown ones are ignored when received."""


class Form(NamedTuple):
    """The encoding of one type.

    Attributes:
        plain: types of JSON values that are used as they are; ``decode`` gets the others.
        encode: None if the values are valid JSON.
        decode: see ``Decode``.
    """

    plain: frozenset[type]
    encode: Encode | None
    decode: Decode


Forms = dict[Any, Form]


class Codec(Generic[M]):
    """Encodes and decodes a set of messages.

    Args:
        kinds: the dataclasses of the messages, which a header names.
        forms: encodings of further types.
    """

    def __init__(self, *kinds: type[M], forms: Mapping[Any, Form] | None = None) -> None:
        known = {**_SCALARS, **(forms or {})}
        self._records = {kind.__name__: _Record(kind, known) for kind in kinds}

    def encode(self, message: M) -> tuple[dict[str, Any], Buffers]:
        """Return the header and the buffers of a message's frame."""
        kind = type(message).__name__
        buffers: Buffers = []
        return {"kind": kind, **self._records[kind].encode(message, buffers)}, buffers

    def decode(self, header: dict[str, Any], buffers: Buffers) -> M:
        """Return the message of a frame.

        Raises:
            MessageError: the frame is not a message.
        """
        values = dict(header)
        try:
            message: M = self._records[values.pop("kind")].decode(values, buffers)
        except (LookupError, TypeError, ValueError) as error:
            raise MessageError(f"something that is not a message ({type(error).__name__}: {error})") from error
        return message


class _Record:
    """The encoding of a dataclass: an object of the fields that differ from their defaults."""

    def __init__(self, cls: Any, known: Forms) -> None:  # noqa: ANN401 - a class
        hints = get_type_hints(cls)
        self._cls = cls
        self._forms = {each.name: _form(hints[each.name], known) for each in fields(cls)}
        self._fields = [(each.name, _default(each), self._forms[each.name].encode) for each in fields(cls)]
        self._defaults = {name: default for name, default, _ in self._fields if default is not MISSING}
        self._check = getattr(cls, "__post_init__", None)
        self._is_extensible = issubclass(cls, Extensible)

    def encode(self, record: object, buffers: Buffers) -> dict[str, Any]:
        values = {}
        for name, default, encode in self._fields:
            value = getattr(record, name)
            # Comparing by identity first: most fields have their default, and equality of long values is slow.
            if value is not default and (default is None or default is MISSING or value != default):
                values[name] = value if encode is None else encode(value, buffers)
        return values

    def decode(self, values: object, buffers: Buffers) -> Any:  # noqa: ANN401 - of that class
        attributes = self._defaults.copy()
        received = _checked(values, dict)
        if self._is_extensible:
            received = {name: value for name, value in received.items() if name in self._forms}
        for name, value in received.items():
            plain, _, decode = self._forms[name]  # KeyError: an unknown field, which ``Codec.decode`` reports
            attributes[name] = value if type(value) in plain else decode(value, buffers)
        if len(attributes) < len(self._forms):
            raise TypeError(f"{self._cls.__name__} without {', '.join(self._forms.keys() - attributes.keys())}")
        record: object = object.__new__(self._cls)
        record.__dict__.update(attributes)  # as pickle: a frozen dataclass's __init__ takes four times as long
        if self._check is not None:
            self._check(record)
        return record


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _form(hint: Any, known: Forms) -> Form:  # noqa: ANN401 - a type
    """Return the form of a type, cached in ``known``; raises KeyError if the type is not supported."""
    if hint not in known:
        if is_dataclass(hint):
            record = _Record(hint, known)
            known[hint] = Form(frozenset(), record.encode, record.decode)
        elif hasattr(hint, "_fields"):
            known[hint] = Form(
                frozenset(), None, lambda value, buffers: hint(*_decode_integers(value, buffers))
            )
        else:
            known[hint] = _MAKERS[get_origin(hint)](get_args(hint), known)
    return known[hint]


def _optional(arguments: tuple[Any, ...], known: Forms) -> Form:
    (plain, encode, decode) = next(_form(each, known) for each in arguments if each is not NoneType)

    def encode_optional(value: object, buffers: Buffers) -> object:
        return None if encode is None or value is None else encode(value, buffers)

    return Form(plain | {NoneType}, encode and encode_optional, decode)


def _tuple(arguments: tuple[Any, ...], known: Forms) -> Form:
    plain, encode, decode = _form(arguments[0], known)

    def encode_all(values: tuple[Any, ...], buffers: Buffers) -> object:
        return [encode(value, buffers) for value in values] if encode else values

    def decode_all(values: object, buffers: Buffers) -> tuple[Any, ...]:
        items = _checked(values, list)
        return tuple([item if type(item) in plain else decode(item, buffers) for item in items])

    return Form(frozenset(), encode and encode_all, decode_all)


def _mapping(arguments: tuple[Any, ...], _: Forms) -> Form:
    """Return the form of a mapping, whose keys are strings in JSON."""
    key_of, _ = arguments
    if key_of is str:
        return _scalar(dict)

    def decode(values: object, _: Buffers) -> dict[Any, Any]:
        return {key_of(key): value for key, value in _checked(values, dict).items()}

    return Form(frozenset(), None, decode)


def _scalar(*plain: type) -> Form:
    def refuse(value: object, _: Buffers) -> None:
        raise TypeError(f"{type(value).__name__} instead of {plain[0].__name__}")

    return Form(frozenset(plain), None, refuse)


def _encode_bytes(value: bytes, buffers: Buffers) -> object:
    return value.decode("latin-1") if len(value) <= MAX_INLINE else _put(value, buffers)


def _decode_bytes(value: object, buffers: Buffers) -> bytes:
    return buffers[value] if type(value) is int else _checked(value, str).encode("latin-1")


def _encode_integers(values: tuple[int, ...], buffers: Buffers) -> object:
    return values if len(values) <= MAX_INLINE else _put(array("q", values).tobytes(), buffers)


def _decode_integers(values: object, buffers: Buffers) -> tuple[int, ...]:
    if type(values) is int:
        return tuple(array("q", buffers[values]))
    return tuple([_checked(value, int) for value in _checked(values, list)])


def _put(value: bytes, buffers: Buffers) -> int:
    buffers.append(value)
    return len(buffers) - 1


def _checked(value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} instead of {kind.__name__}")
    return value


_SCALARS: Forms = {
    bool: _scalar(bool),
    int: _scalar(int),
    str: _scalar(str),
    float: _scalar(float, int),
    bytes: Form(frozenset(), _encode_bytes, _decode_bytes),
    tuple[int, ...]: Form(frozenset(), _encode_integers, _decode_integers),
}
_MAKERS: dict[Any, Callable[[tuple[Any, ...], Forms], Form]] = {
    tuple: _tuple,
    Union: _optional,
    UnionType: _optional,
    dict: _mapping,
    Mapping: _mapping,
}
