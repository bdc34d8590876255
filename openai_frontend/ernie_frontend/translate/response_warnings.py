"""Warnings about a request that is answered all the same, as an HTTP header."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping

from pydantic import BaseModel

from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.schema.unsupported import IGNORED, IGNORED_INSIDE, UNSUPPORTED_IN_CHAT, Refusal
from ernie_frontend.translate.generate_request import RequestContext

MAX_HEADER_CHARACTERS = 512
# RFC 7234, section 5.5: the code of a lasting warning, an agent without a name, and the text.
_HEADER = '299 - "{}"'
_MAX_NAMES, _MAX_NAME_CHARACTERS = 16, 64
# What would end the quoted string, or is not allowed in a header.
_UNQUOTABLE = re.compile(r"[^ !#-\[\]-~]")


def chat_warnings(body: ChatRequest, context: RequestContext) -> tuple[str, ...]:
    """Return the warnings about a checked chat request."""
    unknown = unknown_fields(body, UNSUPPORTED_IN_CHAT)
    if body.tool_request is None or context.knows_tools:
        return unknown
    result = "a call is forced all the same" if body.tool_request.is_required else "it answers with text"
    return (*unknown, f"the chat template of this model does not show it any tools; {result}")


def unknown_fields(body: BaseModel, refused: Mapping[str, Refusal]) -> tuple[str, ...]:
    """Return a warning with the names of the fields that the server does not know; none if there are none.

    Args:
        body: a request, with the fields that its schema does not have in ``model_extra``.
        refused: unsupported fields, whose values have been found to be neutral.
    """
    names = list(dict.fromkeys(_unknown(body, refused.keys() | IGNORED.keys())))
    if not names:
        return ()
    shown = ", ".join(name[:_MAX_NAME_CHARACTERS] for name in names[:_MAX_NAMES])
    others = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return (f"unknown fields are ignored: {shown}{others}",)


def _unknown(part: BaseModel, ignored: Container[str]) -> Iterator[str]:
    """Yield the unknown fields of an object of the request and of the objects in it, with their paths."""
    extra = (part.model_extra or {}).items()
    yield from (name for name, value in extra if value is not None and name not in ignored)
    for name in type(part).model_fields:
        value = getattr(part, name)
        items = value if isinstance(value, list) else [value]
        if items and isinstance(items[0], BaseModel):
            yield from (f"{name}.{inner}" for item in items for inner in _unknown(item, IGNORED_INSIDE))


def warning_header(warnings: Iterable[str]) -> dict[str, str]:
    """Return the header ``Warning`` with warnings, or nothing if there are none.

    Its length is limited. A quotation mark, a backslash and every character outside printable ASCII become
    ``?``, so that no text of a client ends the quoted string or the header.
    """
    text = _UNQUOTABLE.sub("?", "; ".join(warnings))
    if not text:
        return {}
    room = MAX_HEADER_CHARACTERS - len(_HEADER.format(""))
    if len(text) > room:
        text = text[: room - 3] + "..."
    return {"Warning": _HEADER.format(text)}
