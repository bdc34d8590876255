"""The time of a frame, drawn into it as ERNIE-4.5-VL was trained: the font is part of the numbers."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT = Path(__file__).parent / "fonts" / "Roboto-Regular.ttf"
_MIN_SIZE = 1


def draw_time(frame: Image.Image, seconds: float) -> None:
    """Draw ``time: HH:MM:SS.ss`` into the upper left corner, black with a white stroke.

    The height of the letters is a tenth of the frame's shorter side, the stroke a tenth of that.
    """
    size = int(0.1 * min(frame.size))
    if size < _MIN_SIZE:
        return
    ImageDraw.Draw(frame).text(
        (0, 0),
        f"time: {clock_time(seconds)}",
        font=_font(size),
        fill=(0, 0, 0),
        stroke_width=int(size * 0.1),
        stroke_fill=(255, 255, 255),
    )


def clock_time(seconds: float) -> str:
    """Return ``HH:MM:SS.ss``; as in FastDeploy 59.999 seconds are ``60.00``."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:05.2f}"


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The other layout, Pillow's default, needs a library of the system and moves letters by a pixel or two.
    return ImageFont.truetype(FONT, size, layout_engine=ImageFont.Layout.BASIC)
