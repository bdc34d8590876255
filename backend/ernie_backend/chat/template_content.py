"""The content of messages in the form that a chat template reads.

Templates of models with media go through a list of parts, whose types are ``image`` or ``image_url``; others
take a text. The constants of a template show what it reads. Content without media is a text also for the first
kind, one which gives a part to a loop: many of them read parts in some branches and texts in others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from jinja2 import nodes

from ernie_backend.chat.messages import Content
from ernie_backend.chat.template_text import joined, template_written
from ernie_wire.media_parts import MediaPart

_TYPES = {"image": ("image_url", "image"), "video": ("video_url", "video")}


class _TextParts(str):
    """A text which is one text part to a loop."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        return iter([{"type": "text", "text": str(self)}])


class TemplateContent:
    """Brings content into the form of one template.

    Args:
        template: its syntax tree.
        texts: what stands for a medium of a kind in a text, ``{}`` for its number.
    """

    def __init__(self, template: nodes.Template, texts: Mapping[str, str]) -> None:
        constants = _texts(template)
        compared = {
            text
            for each in template.find_all(nodes.Compare)
            for operand in each.ops
            for text in _texts(operand)
        }
        self._types = {
            kind: next((each for found in (compared, constants) for each in names if each in found), None)
            for kind, names in _TYPES.items()
        }
        self._reads_media = any(self._types.values())
        self._reads_parts = self._reads_media or "text" in compared
        self._texts = texts

    def of_messages(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return normalized messages with their content in the template's form."""
        numbers = {kind: count(1) for kind in _TYPES}
        return [{**each, "content": self._content(each["content"], numbers)} for each in messages]

    def _content(self, content: Content, numbers: Mapping[str, Iterator[int]]) -> object:
        if isinstance(content, str):
            return _TextParts(content) if self._reads_parts else content
        if self._reads_media:
            return [self._part(each) for each in content]
        return joined(each if isinstance(each, str) else self._text(each, numbers) for each in content)

    def _part(self, part: str | MediaPart) -> dict[str, Any]:
        """Return a part with the keys of both spellings, which some templates look for, not for the type."""
        if isinstance(part, str):
            return {"type": "text", "text": part}
        kind = self._types[part.kind] or f"{part.kind}_url"
        return {"type": kind, part.kind: part.fields, f"{part.kind}_url": part.fields}

    def _text(self, part: MediaPart, numbers: Mapping[str, Iterator[int]]) -> str:
        text: str = template_written(self._texts[part.kind].format(next(numbers[part.kind])))
        return text


def _texts(node: nodes.Node) -> set[str]:
    """Return the constants below a node that are texts."""
    return {each.value for each in node.find_all(nodes.Const) if isinstance(each.value, str)}
