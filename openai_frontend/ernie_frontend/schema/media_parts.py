"""Images and videos in messages: the spellings that clients send, brought into one form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ernie_wire.errors import InvalidValue
from ernie_wire.media_parts import MEDIA_PARTS, OPTION_NAMES, part_options

_OTHER_SPELLINGS = {"image": "image_url", "input_image": "image_url", "video": "video_url"}
"""Types of parts in Qwen's and transformers' conversations, and in OpenAI's responses API."""
MEDIA_TYPES = frozenset((*MEDIA_PARTS, *_OTHER_SPELLINGS))
"""Types of parts that are images or videos."""
_MAX_SHOWN = 40


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


def unknown_part(kind: str) -> str:
    """Return what is wrong with a part of a type that is neither text nor in ``MEDIA_TYPES``."""
    known = ", ".join(("text", *MEDIA_PARTS))
    return f"a part of type {kind[:_MAX_SHOWN]!r} is not supported; known: {known}"
