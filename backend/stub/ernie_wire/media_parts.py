"""Parts of messages that refer to media, and how media are prepared: one rule for the frontend and the engine.

    {"type": "image_url", "image_url": {"media": 0, "max_pixels": 500000}}

is the first buffer of a request. The options of a part win over those of the request's ``mm_processor_kwargs``,
and these over the operator's ``--mm-processor-kwargs``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ernie_wire.errors import InvalidValue

MEDIA_PARTS = {"image_url": "image", "video_url": "video"}
"""Types of content parts other than text, and the modality that a model needs for them."""
MEDIA_OPTIONS = "mm_processor_kwargs"
DETAILS = ("auto", "low", "high", "original")
FRAME_SAMPLES = ("leading", "middle", "rand")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_rate(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(rate := float(str(value))) and (rate > 0 or rate == -1)


_COUNT = "a whole number of at least 1"
_PIXELS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "min_pixels": (_is_count, _COUNT),
    "max_pixels": (_is_count, _COUNT),
}
_OPTIONS = {
    "image": {**_PIXELS, "detail": (lambda value: value in DETAILS, f"one of {', '.join(DETAILS)}")},
    "video": {
        **_PIXELS,
        "fps": (_is_rate, "a number above 0, or -1 with target_frames"),
        "min_frames": (_is_count, _COUNT),
        "max_frames": (_is_count, _COUNT),
        "target_frames": (lambda value: _is_count(value) or value == -1, f"{_COUNT}, or -1 for none"),
        "frames_sample": (lambda value: value in FRAME_SAMPLES, f"one of {', '.join(FRAME_SAMPLES)}"),
    },
}
OPTION_NAMES = tuple(dict.fromkeys(name for options in _OPTIONS.values() for name in options))
"""Names of the options of a part."""


@dataclass(frozen=True)
class MediaPart:
    """A part of a message that refers to a buffer.

    Attributes:
        kind: ``image`` or ``video``.
        media: index of the buffer.
        options: how it is prepared, as far as the part says.
        fields: all that the part says of it; a chat template may read more, such as ``subtitles``.
        where: ``messages[2].content[0]``, for errors.
    """

    kind: str
    media: int
    options: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""


def media_part(where: str, part: Mapping[str, Any], num_media: int) -> MediaPart:
    """Check a part of a type in ``MEDIA_PARTS``.

    Args:
        where: ``messages[2].content[0]``, for the error.
        part: ``{"type": "image_url", "image_url": {"media": 0}}``.
        num_media: buffers of the request.

    Raises:
        InvalidValue: it refers to no buffer, or an option is wrong.
    """
    name = part["type"]
    described = part.get(name)
    index = described.get("media") if isinstance(described, dict) else None
    if not isinstance(described, dict) or type(index) is not int:
        message = f'{where} must refer to a buffer of media: {{"type": "{name}", "{name}": {{"media": 0}}}}'
        raise InvalidValue(message, "messages")
    if not 0 <= index < num_media:
        message = f"{where}.{name}.media is {index}, but media has {num_media} buffers"
        raise InvalidValue(f"{message}; it is an index from 0 on", "messages")
    kind = MEDIA_PARTS[name]
    return MediaPart(kind, index, part_options(f"{where}.{name}", kind, described), described, where)


def part_options(where: str, kind: str, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that stand in a part, next to its URL or buffer; what is no option is ignored.

    Raises:
        InvalidValue: an option has a wrong value.
    """
    known = _OPTIONS[kind]
    given = {name: value for name, value in described.items() if name in known and value is not None}
    for name, value in given.items():
        _check(f"{where}.{name}", value, known[name], "messages")
    return given


def request_options(conversation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options in a conversation's ``mm_processor_kwargs`` by kind of media.

    ``max_pixels`` is for images and videos alike; ``image_max_pixels`` and ``video_max_pixels`` win over it.
    The names of the flag, such as ``video_fps``, mean the same.

    Raises:
        InvalidValue: it is not an object, or has an unknown name or a wrong value.
    """
    given = conversation.get(MEDIA_OPTIONS)
    if not isinstance(given, dict | None):
        raise InvalidValue(
            f'{MEDIA_OPTIONS} must be an object such as {{"max_pixels": 1003520}}', MEDIA_OPTIONS
        )
    for name in given or ():
        if not any(name in (option, f"{kind}_{option}") for kind in _OPTIONS for option in _OPTIONS[kind]):
            message = f"{MEDIA_OPTIONS}.{name} is not an option of media; known: {', '.join(OPTION_NAMES)}"
            raise InvalidValue(f"{message}, each also with image_ or video_ before it", MEDIA_OPTIONS)
    return {kind: _options_of(kind, given or {}) for kind in _OPTIONS}


def merged_options(request: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a request with those of a part, which win; ``fps`` also over ``target_frames``."""
    other = {"fps": "target_frames", "target_frames": "fps"}
    return {**{name: value for name, value in request.items() if other.get(name) not in part}, **part}


def _options_of(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    options = {}
    for option, rule in _OPTIONS[kind].items():
        for name in (option, f"{kind}_{option}"):
            if given.get(name) is not None:
                _check(f"{MEDIA_OPTIONS}.{name}", given[name], rule, MEDIA_OPTIONS)
                options[option] = given[name]
    return options


def _check(where: str, value: object, rule: tuple[Callable[[object], bool], str], param: str) -> None:
    is_valid, expected = rule
    if not is_valid(value):
        text = repr(value) if len(repr(value)) <= 40 else f"a value of type {type(value).__name__}"
        raise InvalidValue(f"{where} is {text}; it must be {expected}", param)
