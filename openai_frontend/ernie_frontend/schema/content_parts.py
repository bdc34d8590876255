"""Parts of a message's content: texts, images and videos, in the spellings that clients send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ernie_wire.errors import InvalidValue
from ernie_wire.media_parts import DETAILS, FRAME_SAMPLES, MEDIA_PARTS, OPTION_NAMES, part_options

_OTHER_SPELLINGS = {"image": "image_url", "input_image": "image_url", "video": "video_url"}
"""Types of parts in Qwen's and transformers' conversations, and in OpenAI's responses API."""
MEDIA_TYPES = frozenset((*MEDIA_PARTS, *_OTHER_SPELLINGS))
"""Types of parts that are images or videos."""
_EXPECTED = 'it must be a string or a list of parts such as {"type": "text", "text": "..."}'
_MAX_SHOWN = 40
_COUNT = {"type": "integer", "minimum": 1}


def _media_schema(kind: str, **options: object) -> dict[str, Any]:
    fields = {"url": {"type": "string"}, "min_pixels": _COUNT, "max_pixels": _COUNT, **options}
    described = {"type": "object", "properties": fields, "required": ["url"]}
    return {
        "type": "object",
        "properties": {"type": {"const": kind}, kind: {"anyOf": [{"type": "string"}, described]}},
        "required": ["type", kind],
    }


_PARTS = [
    {
        "type": "object",
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
        "required": ["type", "text"],
    },
    _media_schema("image_url", detail={"enum": list(DETAILS)}),
    _media_schema(
        "video_url",
        fps={"type": "number"},
        min_frames=_COUNT,
        max_frames=_COUNT,
        target_frames={"type": "integer"},
        frames_sample={"enum": list(FRAME_SAMPLES)},
    ),
]
CONTENT_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string"}, *_PARTS, {"type": "array", "items": {"anyOf": _PARTS}}, {"type": "null"}]
}
"""JSON Schema of a message's content."""


def check_part(part: object) -> None:
    """Raise ValueError, as pydantic expects it, for what is not a part of a known type."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise ValueError(_EXPECTED)  # noqa: TRY004  pydantic handles no other
    if part["type"] in MEDIA_TYPES:
        return
    if part["type"] != "text":
        known = ", ".join(("text", *MEDIA_PARTS, *_OTHER_SPELLINGS))
        raise ValueError(f"a part of type {part['type'][:_MAX_SHOWN]!r} is not supported; known: {known}")
    if not isinstance(part.get("text"), str):
        raise ValueError("a text part needs text, a string")  # noqa: TRY004  as above


def media_part(where: str, part: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return a part of a type in ``MEDIA_TYPES`` in the wire's form, without its URL; and the URL.

    The URL stands in an object next to the options (OpenAI's form) or alone as a string; options may also stand
    next to the type.

    Args:
        where: ``messages[2].content[0]``, for the error.
        part: an object with a type.

    Raises:
        InvalidValue: it has no URL, or an option is wrong.
    """
    kind = _OTHER_SPELLINGS.get(part["type"], part["type"])
    described = next((part[name] for name in (kind, part["type"], "url") if part.get(name) is not None), None)
    if isinstance(described, str):
        described = {"url": described}
    url = described.get("url") if isinstance(described, dict) else None
    if not isinstance(described, dict) or not isinstance(url, str):
        form = f'{{"type": "{kind}", "{kind}": {{"url": "..."}}}}'
        raise InvalidValue(
            f"{where}: a part of type {part['type']!r} has no URL; it must be {form}", "messages"
        )
    described = {name: value for name, value in described.items() if value is not None}
    beside = {name: value for name, value in part.items() if name in OPTION_NAMES}
    options = part_options(f"{where}.{kind}", MEDIA_PARTS[kind], {**beside, **described})
    if "subtitles" in described:
        options["subtitles"] = described["subtitles"]
    return {"type": kind, kind: options}, url
