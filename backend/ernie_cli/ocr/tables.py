"""Tables as PaddleOCR-VL writes them, in OTSL, and as Markdown or HTML.

OTSL names each place of a grid by a tag, row by row: ``<fcel>`` a cell with the text after it, ``<ecel>`` an
empty one, ``<lcel>`` part of the cell to the left, ``<ucel>`` of the cell above, ``<xcel>`` of one to the left
and above; ``<ched>``, ``<rhed>`` and ``<srow>`` headers of columns, rows and sections; ``<nl>`` a row's end
(Lysak and others, "Optimized Table Tokenization for Table Structure Recognition", 2023). A model may break the
rules; whatever it writes, the cells cover each place of the grid once.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

_TAG = re.compile(r"<([eflux]cel|ched|rhed|srow|nl)>")
_HEADERS = ("ched", "rhed", "srow")
_ANCHORS = ("fcel", "ecel", *_HEADERS)


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        row, column: of its upper left place, from 0.
        rows, columns: how many places it covers.
        text: in it.
        is_header: whether its tag says so.
    """

    row: int
    column: int
    rows: int = 1
    columns: int = 1
    text: str = ""
    is_header: bool = False


Grid = Sequence[Sequence[tuple[str, str]]]
"""Rows of equal length; a place is its tag and the text after it."""


def table_to_markdown(otsl: str) -> str:
    """Return a table as Markdown, or as HTML if a cell spans several places; other text as it is."""
    before, grid = _grid(otsl)
    if not grid:
        return otsl.strip()
    cells = list(cells_of(grid))
    has_spans = any(cell.rows * cell.columns > 1 for cell in cells)
    table = to_html(cells) if has_spans else _markdown(cells, len(grid[0]))
    return f"{before}\n\n{table}" if before else table


def read_cells(otsl: str) -> list[Cell]:
    """Return the cells of a table, row by row."""
    return list(cells_of(_grid(otsl)[1]))


def cells_of(grid: Grid) -> Iterator[Cell]:
    """Yield the cells of a grid: each place belongs to exactly one of them."""
    covered: set[tuple[int, int]] = set()
    for row, places in enumerate(grid):
        for column, (tag, text) in enumerate(places):
            if (row, column) in covered:
                continue
            rows, columns = _spans(grid, row, column) if tag in _ANCHORS else (1, 1)
            covered.update((row + down, column + right) for down in range(rows) for right in range(columns))
            yield Cell(row, column, rows, columns, text, tag in _HEADERS)


def to_html(cells: Sequence[Cell]) -> str:
    """Return cells, in the order of ``cells_of``, as an HTML table."""
    rows = ["".join(map(_html, of_row)) for of_row in _by_row(cells)]
    return "\n".join(["<table>", *(f"<tr>{row}</tr>" for row in rows), "</table>"])


def _by_row(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return the cells that begin in each row; a row that is all covered from above has none."""
    rows: list[list[Cell]] = [[] for _ in range(max(cell.row + cell.rows for cell in cells))]
    for cell in cells:
        rows[cell.row].append(cell)
    return rows


def _grid(otsl: str) -> tuple[str, Grid]:
    """Return the text before a table, and its grid; the grid is empty if there is no table."""
    before, *parts = _TAG.split(otsl)
    rows: list[list[tuple[str, str]]] = [[]]
    for tag, text in zip(parts[::2], parts[1::2], strict=True):
        if tag == "nl":
            rows.append([])
        else:
            rows[-1].append((tag, text.strip()))
    rows = [row for row in rows if row]
    width = max(map(len, rows), default=0)
    return before.strip(), [row + [("ecel", "")] * (width - len(row)) for row in rows]


def _spans(grid: Grid, row: int, column: int) -> tuple[int, int]:
    """Return how many rows and columns a cell covers: all of its rectangle has the tags that say so."""
    columns = 1 + _leading(tag == "lcel" for tag, _ in grid[row][column + 1 :])
    rows = 1 + _leading(
        places[column][0] == "ucel" and all(tag == "xcel" for tag, _ in places[column + 1 : column + columns])
        for places in grid[row + 1 :]
    )
    return rows, columns


def _leading(conditions: Iterable[bool]) -> int:
    """Return how many conditions hold before the first that does not."""
    return sum(1 for _ in takewhile(bool, conditions))


def _html(cell: Cell) -> str:
    name = "th" if cell.is_header else "td"
    spans = [
        f' {kind}="{size}"' for kind, size in (("rowspan", cell.rows), ("colspan", cell.columns)) if size > 1
    ]
    text = html.escape(cell.text, quote=False).replace("\n", "<br>")
    return f"<{name}{''.join(spans)}>{text}</{name}>"


def _markdown(cells: Sequence[Cell], width: int) -> str:
    texts = [cell.text.replace("|", "\\|").replace("\n", "<br>") for cell in cells]
    rows = [texts[start : start + width] for start in range(0, len(texts), width)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])
