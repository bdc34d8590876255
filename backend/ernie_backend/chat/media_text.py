"""How media stand in the text of a prompt: what a family of models writes for one, and where a template did.

Only characters that the template wrote count (``template_text.py``): the same characters in what a client sends
are text, and never become a picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

_IMAGE, _VIDEO = "<|IMAGE_PLACEHOLDER|>", "<|VIDEO_PLACEHOLDER|>"
_IN_VIDEO = f"<|VIDEO_START|>{_IMAGE}"
_PLACEHOLDER = re.compile(
    "|".join(map(re.escape, (_IN_VIDEO, _IMAGE, _VIDEO, "<|image@placeholder|>", "<|video@placeholder|>")))
)
"""What templates write: tokens of the vocabulary, or FastDeploy's pseudo tokens, which are none."""
_VIDEOS = (_IN_VIDEO, _VIDEO, "<|video@placeholder|>")
_TEMPLATE_RUN = re.compile(b"\x01+")
PLACEHOLDER_TOKEN = _IMAGE
"""The token in the prompt that stands for all tokens of an image or a video, as in FastDeploy."""


class Placeholder(NamedTuple):
    """A place in a text that a medium takes: characters ``start`` to ``end``."""

    kind: str
    start: int
    end: int


def placeholders(text: str, origins: bytes) -> list[Placeholder]:
    """Return the places of media in the text of a chat, in order.

    Args:
        text: the rendered prompt.
        origins: a byte per character of it, 1 where the template wrote it.
    """
    found = []
    for run in _TEMPLATE_RUN.finditer(origins):
        for match in _PLACEHOLDER.finditer(text, *run.span()):
            kind = "video" if match[0] in _VIDEOS else "image"
            start = match.end() - len(_IMAGE) if match[0] == _IN_VIDEO else match.start()
            found.append(Placeholder(kind, start, match.end()))
    return found


def counted(number: int, kind: str) -> str:
    """Return a number of media in words, such as ``2 images``."""
    return f"{number} {kind}" + ("" if number == 1 else "s")


@dataclass(frozen=True)
class MediaFamily:
    """How a family of models writes media.

    Attributes:
        texts: what stands for a medium of a kind where a template reads only text; ``{}`` is its number among
            those of its kind.
        config_fields: fields of config.json with ids of tokens -> the token, which must have that id.
        boundaries: tokens that stand before and after a medium.
        has_vision_experts: whether tokens of media have experts of their own.
    """

    texts: Mapping[str, str]
    config_fields: Mapping[str, str] = field(default_factory=dict)
    boundaries: tuple[str, ...] = ()
    has_vision_experts: bool = False


FAMILIES: Mapping[str, MediaFamily] = {
    "Ernie4_5_VLMoeForConditionalGeneration": MediaFamily(
        {
            "image": f"Picture {{}}:<|IMAGE_START|>{_IMAGE}<|IMAGE_END|>",
            "video": f"Video {{}}:<|VIDEO_START|>{_VIDEO}<|VIDEO_END|>",
        },
        {
            "im_patch_id": _IMAGE,
            "image_token_id": _IMAGE,
            "image_start_token_id": "<|IMAGE_START|>",
            "image_end_token_id": "<|IMAGE_END|>",
            "video_start_token_id": "<|VIDEO_START|>",
            "video_end_token_id": "<|VIDEO_END|>",
        },
        ("<|IMAGE_START|>", "<|IMAGE_END|>", "<|VIDEO_START|>", "<|VIDEO_END|>"),
        has_vision_experts=True,
    ),
    "PaddleOCRVLForConditionalGeneration": MediaFamily(
        {"image": f"<|IMAGE_START|>{_IMAGE}<|IMAGE_END|>"},
        {
            "image_token_id": _IMAGE,
            "vision_start_token_id": "<|IMAGE_START|>",
            "vision_end_token_id": "<|IMAGE_END|>",
        },
        ("<|IMAGE_START|>", "<|IMAGE_END|>"),
    ),
}
"""By architecture, as config.json's is called here (``config/architectures.py``)."""
