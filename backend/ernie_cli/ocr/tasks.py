"""What PaddleOCR-VL can be asked about a picture, and what its answers become."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ernie_cli.ocr.tables import table_to_markdown

_PLACE = re.compile(r"(?:<\|LOC_BEGIN\|>)?(?:<\|LOC_\d+\|>(?:<\|LOC_SEP\|>)?){8}(?:<\|LOC_END\|>)?")
_COORDINATE = re.compile(r"<\|LOC_(\d+)\|>")
_OTHER_TAGS = re.compile(r"<\|(?:TEXT_(?:START|END)|LOC_(?:BEGIN|END|SEP|\d+))\|>")
_MATH_DELIMITERS = ("$", "\\[", "\\(", "\\begin")


@dataclass(frozen=True)
class Task:
    """A task of the model.

    Attributes:
        prompt: the text that names it.
        to_markdown: what an answer becomes.
        fields: of its requests, beside those of all tasks.
    """

    prompt: str
    to_markdown: Callable[[str], str]
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Region:
    """A text found in a picture.

    Attributes:
        text: what stands there.
        polygon: its corners, x and y in thousandths of the picture's width and height.
    """

    text: str
    polygon: tuple[tuple[int, int], ...]


def read_regions(answer: str) -> list[Region]:
    """Return the texts of a spotting answer with their places: each text stands before its four corners."""
    regions, begin = [], 0
    for place in _PLACE.finditer(answer):
        numbers = [int(each) for each in _COORDINATE.findall(place[0])]
        text = _OTHER_TAGS.sub("", answer[begin : place.start()]).strip()
        regions.append(Region(text, tuple(zip(numbers[::2], numbers[1::2], strict=True))))
        begin = place.end()
    return regions


def _spotted(answer: str) -> str:
    regions = read_regions(answer)
    return "\n\n".join(region.text for region in regions) if regions else answer.strip()


def _formula(answer: str) -> str:
    text = answer.strip()
    return text if not text or text.startswith(_MATH_DELIMITERS) else f"$$\n{text}\n$$"


def _chart(answer: str) -> str:
    """Return the values of a chart, lines of cells between bars, as a table."""
    rows = [line.strip().strip("|").split("|") for line in answer.strip().splitlines()]
    if not rows or any(len(row) < 2 for row in rows):
        return answer.strip()
    width = max(map(len, rows))
    lines = [f"| {' | '.join(each.strip() for each in row + [''] * (width - len(row)))} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])


TASKS: Mapping[str, Task] = {
    "ocr": Task("OCR:", str.strip),
    "table": Task("Table Recognition:", table_to_markdown),
    "formula": Task("Formula Recognition:", _formula),
    "chart": Task("Chart Recognition:", _chart),
    "seal": Task("Seal Recognition:", str.strip),
    "spotting": Task(
        "Spotting:",
        _spotted,
        # Small text needs more pixels than the default, 1,003,520; both are PaddleX's values.
        {
            "skip_special_tokens": False,
            "mm_processor_kwargs": {"min_pixels": 112_896, "max_pixels": 1_605_632},
        },
    ),
}
