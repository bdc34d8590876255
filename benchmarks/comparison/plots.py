"""Plots as SVG: lines over sizes that double, with the range of the rounds at each point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 78, 52
COLOURS = ("#0b6e4f", "#c2571a", "#3b5ba5", "#7a4b94", "#6b7280")
GRID, INK, FAINT = "#e5e7eb", "#1f2937", "#6b7280"
FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes:
        label: in the legend.
        points: size, median, least and greatest of the rounds, rising in size.
        is_limit: dashed, grey and without points.
    """

    label: str
    points: Sequence[tuple[float, float, float, float]]
    is_limit: bool = False


def _step(greatest: float) -> float:
    """Return the distance of grid lines: 1, 2 or 5 times a power of ten, about five of them."""
    rough = greatest / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


class Plot:
    """A plot being drawn.

    Args:
        title: above it.
        x_title: of the sizes.
        y_title: of the values.
        lines: with at least one point.
        greatest: the top of the values' axis; None: the greatest value that is not a limit's.
    """

    def __init__(
        self, title: str, x_title: str, y_title: str, lines: Sequence[Line], greatest: float | None = None
    ) -> None:
        self._titles, self._lines = (title, x_title, y_title), lines
        self._sizes = sorted({point[0] for line in lines for point in line.points})
        top = greatest or max(point[3] for line in lines if not line.is_limit for point in line.points)
        self._grid = _step(top)
        self._top = math.ceil(top / self._grid) * self._grid

    def _x(self, size: float) -> float:
        first, last = math.log2(self._sizes[0]), math.log2(self._sizes[-1])
        share = (math.log2(size) - first) / ((last - first) or 1)
        return LEFT + 20 + share * (WIDTH - LEFT - RIGHT - 40)

    def _y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self._top * (HEIGHT - TOP - BOTTOM)

    def draw(self) -> str:
        """Return the SVG."""
        parts = [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}'"
            f" height='{HEIGHT}' role='img' aria-label='{escape(self._titles[0])}' {FONT}>",
            f"<rect width='{WIDTH}' height='{HEIGHT}' fill='#ffffff'/>",
            f"<clipPath id='area'><rect x='{LEFT}' y='{TOP - 4}' width='{WIDTH - LEFT - RIGHT}'"
            f" height='{HEIGHT - TOP - BOTTOM + 4}'/></clipPath>",
            _text(LEFT, 24, self._titles[0], size=15, weight="600"),
            *self._axes(),
            *self._legend(),
        ]
        colours = iter(COLOURS)
        for line in self._lines:
            parts += self._draw_line(line, FAINT if line.is_limit else next(colours))
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _axes(self) -> list[str]:
        parts = []
        for index in range(round(self._top / self._grid) + 1):
            value = index * self._grid
            y = self._y(value)
            parts.append(f"<path d='M{LEFT} {y:.1f}H{WIDTH - RIGHT}' stroke='{GRID}'/>")
            parts.append(_text(LEFT - 8, y + 4, f"{value:g}", anchor="end", colour=FAINT))
        y = HEIGHT - BOTTOM + 20
        parts += [_text(self._x(size), y, f"{size:g}", anchor="middle", colour=FAINT) for size in self._sizes]
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(_text(middle, HEIGHT - 10, self._titles[1], anchor="middle", colour=FAINT))
        y = (TOP + HEIGHT - BOTTOM) / 2
        turned = _text(16, y, self._titles[2], anchor="middle", colour=FAINT)
        parts.append(turned.replace("<text ", f"<text transform='rotate(-90 16 {y:.1f})' ", 1))
        return parts

    def _legend(self) -> list[str]:
        parts, colours, x, y = [], iter(COLOURS), float(LEFT), 48.0
        for line in self._lines:
            width = 34 + 6.6 * len(line.label)
            if x + width > WIDTH - RIGHT and x > LEFT:
                x, y = float(LEFT), y + 18
            colour, dash = (FAINT, " stroke-dasharray='5 4'") if line.is_limit else (next(colours), "")
            parts.append(f"<path d='M{x:.1f} {y - 4:.1f}h20' stroke='{colour}' stroke-width='2.5'{dash}/>")
            parts.append(_text(x + 26, y, line.label))
            x += width + 12
        return parts

    def _draw_line(self, line: Line, colour: str) -> list[str]:
        path = " ".join(f"{self._x(size):.1f},{self._y(value):.1f}" for size, value, _, _ in line.points)
        dash = " stroke-dasharray='5 4'" if line.is_limit else ""
        parts = [
            f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2.5'"
            f" stroke-linejoin='round' clip-path='url(#area)'{dash}/>"
        ]
        for size, value, least, most in () if line.is_limit else line.points:
            x = self._x(size)
            parts.append(f"<path d='M{x:.1f} {self._y(least):.1f}V{self._y(most):.1f}' stroke='{colour}'/>")
            parts.append(f"<circle cx='{x:.1f}' cy='{self._y(value):.1f}' r='4' fill='{colour}'/>")
        return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    anchor: str = "start",
    colour: str = INK,
    weight: str = "400",
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' font-weight='{weight}' text-anchor='{anchor}'"
        f" fill='{colour}'>{escape(text)}</text>"
    )
