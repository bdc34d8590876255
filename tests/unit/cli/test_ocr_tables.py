"""Tables in OTSL, the other tasks' answers, and what they become."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_cli.ocr.tables import Cell, read_cells, table_to_markdown
from ernie_cli.ocr.tasks import TASKS, Region, read_regions

TAGS = ["<fcel>", "<ecel>", "<lcel>", "<ucel>", "<xcel>", "<ched>", "<rhed>", "<srow>", "<nl>"]


def test_a_plain_table_is_markdown() -> None:
    otsl = "<fcel>Name<fcel>Sum | total<nl><fcel>Tea<ecel><nl><fcel>Two\nlines<fcel>3<nl>"
    assert table_to_markdown(otsl) == (
        "| Name | Sum \\| total |\n| --- | --- |\n| Tea |  |\n| Two<br>lines | 3 |"
    )


def test_a_table_whose_cells_span_places_is_html() -> None:
    otsl = "Table 1 <ched>A<lcel><ched>B<nl><fcel>1 < 2<lcel><fcel>y<nl><ucel><xcel><fcel>z<nl>"
    assert table_to_markdown(otsl) == (
        "Table 1\n\n<table>\n"
        '<tr><th colspan="2">A</th><th>B</th></tr>\n'
        '<tr><td rowspan="2" colspan="2">1 &lt; 2</td><td>y</td></tr>\n'
        "<tr><td>z</td></tr>\n</table>"
    )


def test_short_rows_are_filled_and_text_without_tags_stays() -> None:
    assert table_to_markdown("<fcel>a<fcel>b<nl><fcel>c") == "| a | b |\n| --- | --- |\n| c |  |"
    assert table_to_markdown(" no table\n") == "no table"
    assert table_to_markdown("<nl><nl>") == "<nl><nl>"


answers = st.lists(st.sampled_from(TAGS) | st.text("ab|<", max_size=2), max_size=40).map("".join)


@given(answers)
def test_whatever_a_model_writes_each_place_belongs_to_one_cell(otsl: str) -> None:
    cells = read_cells(otsl)
    places = [
        (cell.row + down, cell.column + right)
        for cell in cells
        for down in range(cell.rows)
        for right in range(cell.columns)
    ]
    height, width = (max((place[axis] for place in places), default=-1) + 1 for axis in (0, 1))
    assert sorted(places) == [(row, column) for row in range(height) for column in range(width)]
    assert table_to_markdown(otsl) or not otsl.strip()


def rectangles(width: int) -> st.SearchStrategy[list[Cell]]:
    """Return tables of rows that are each cut into cells of one height."""

    def cut(row: int, height: int, ends: frozenset[int]) -> list[Cell]:
        borders = [0, *sorted(ends), width]
        pairs = pairwise(borders)
        return [Cell(row, left, height, right - left, f"{row}.{left}") for left, right in pairs]

    bands = st.tuples(st.integers(1, 3), st.frozensets(st.integers(1, width - 1)))

    def stack(chosen: list[tuple[int, frozenset[int]]]) -> list[Cell]:
        cells, row = [], 0
        for height, ends in chosen:
            cells += cut(row, height, ends)
            row += height
        return cells

    return st.lists(bands, min_size=1, max_size=4).map(stack)


@given(rectangles(5))
def test_cells_go_to_otsl_and_back(cells: list[Cell]) -> None:
    tags = {}
    for cell in cells:
        for down in range(cell.rows):
            for right in range(cell.columns):
                tag = ("<xcel>" if right else "<ucel>") if down else "<lcel>" if right else f"<fcel>{cell.text}"
                tags[cell.row + down, cell.column + right] = tag
    rows = sorted({row for row, _ in tags})
    otsl = "".join("".join(tags[row, column] for column in range(5)) + "<nl>" for row in rows)
    assert read_cells(otsl) == cells


def test_html_of_a_table_is_well_formed() -> None:
    seen: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append(tag)

        def handle_data(self, data: str) -> None:
            seen.append(data.strip())

    Reader().feed(table_to_markdown("<fcel><script>&<lcel><nl>"))
    assert [each for each in seen if each] == ["table", "tr", "td", "<script>&"]


@pytest.mark.parametrize(
    "answer",
    [
        "Shop<|LOC_10|><|LOC_20|><|LOC_300|><|LOC_20|><|LOC_300|><|LOC_60|><|LOC_10|><|LOC_60|>",
        "<|TEXT_START|>Shop<|TEXT_END|><|LOC_BEGIN|><|LOC_10|><|LOC_20|><|LOC_SEP|><|LOC_300|><|LOC_20|>"
        "<|LOC_SEP|><|LOC_300|><|LOC_60|><|LOC_SEP|><|LOC_10|><|LOC_60|><|LOC_END|>",
    ],
)
def test_spotting_says_where_texts_are(answer: str) -> None:
    region = Region("Shop", ((10, 20), (300, 20), (300, 60), (10, 60)))
    assert read_regions(answer) == [region]
    assert read_regions(f"{answer}\n{answer} cut<|LOC_1|>") == [region, region]
    assert TASKS["spotting"].to_markdown(answer * 2) == "Shop\n\nShop"


@pytest.mark.parametrize(
    ("task", "answer", "markdown"),
    [
        ("ocr", " a\nb \n", "a\nb"),
        ("formula", "x^2", "$$\nx^2\n$$"),
        ("formula", "\\[x\\]", "\\[x\\]"),
        ("formula", "", ""),
        ("chart", "Year | Sum\n2020 | 3 | x\n", "| Year | Sum |  |\n| --- | --- | --- |\n| 2020 | 3 | x |"),
        ("chart", "no values", "no values"),
        ("seal", " ACME ", "ACME"),
        ("spotting", "nothing", "nothing"),
    ],
)
def test_other_answers(task: str, answer: str, markdown: str) -> None:
    assert TASKS[task].to_markdown(answer) == markdown
