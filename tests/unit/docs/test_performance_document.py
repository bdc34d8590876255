"""docs/performance.md: its tables and plots are those of its results, and of what may be missing from them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from comparison.document import parts, plots, with_parts, write_document
from comparison.goals import goals
from comparison.limits import instruction, limit, step_bytes
from comparison.rows import ENGINE_ROWS, LLAMA, OUR_SERVER, OURS, SERVER_ROWS, VLLM, VLLM_SERVER
from support.paths import ROOT

DOCUMENT = ROOT / "docs" / "performance.md"
FOLDER = ROOT / "docs" / "performance"
FACTS = {"instruction_set": "avx512-vnni", "activation_dtype": "int8", "weight_bytes": 363e6}
REPORT = {
    "tokens_per_s": 200.0,
    "first_p50_ms": 900.0,
    "first_p99_ms": 1900.0,
    "between_p50_ms": 90.0,
    "between_p99_ms": 100.0,
    "between_max_ms": 300.0,
}


def record(samples: dict[str, list[Any]], **more: Any) -> dict[str, Any]:
    """Return the record of a row of three rounds."""
    fixed = {"when": "2026-11-30T20:25:00+00:00", "load": [1.0], "bandwidth": [30.0] * 3, "memory": [28.0] * 3}
    return {**fixed, "samples": samples, "not_run": {}, **more}


def results(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    machine = {
        "processor": "P",
        "family": "6",
        "model": "1",
        "flags": ["avx2"],
        "cores": 2,
        "memory_gib": 23.0,
        "commit": "c",
    }
    return {
        "rows": {name: {"name": name, **each} for name, each in rows.items()},
        "contenders": {OURS: FACTS},
        "machine": {**machine, "kernel": "6", "python": "3.11"},
        "peaks": {"vpdpbusd zmm": 800.0},
        "threads": 2,
    }


def test_tables_and_plots_are_those_of_the_results() -> None:
    kept = json.loads((FOLDER / "results.json").read_text())
    text = DOCUMENT.read_text()
    assert with_parts(text, parts(kept)) == text, "make bench WRITE=1 writes them"
    assert {path.name: path.read_text() for path in FOLDER.glob("*.svg")} == plots(kept)
    assert all(f"](performance/{name})" in text for name in plots(kept))


def test_a_ratio_is_of_medians_and_reaches_its_target_or_not() -> None:
    samples = {OURS: [90.0, 100.0, 80.0], LLAMA: [50.0, 50.0, 50.0], VLLM: [25.0]}
    found = goals(results({"decode 1": record(samples)}))
    assert ("decode 1", f"1.80 (1.60 to 2.00) x {LLAMA}", "≥ 1.5 x", "reached") in found
    slower = {OURS: [70.0], LLAMA: [50.0]}
    assert goals(results({"decode 1": record(slower)}))[0][3] == "missed"


def test_decode_at_batch_1_is_measured_against_the_bandwidth_of_its_rounds() -> None:
    rate = 0.95 * 30e9 / step_bytes(OURS, 1)
    found = goals(results({"decode 1": record({OURS: [1.01 * rate] * 3})}))
    assert [goal[2:] for goal in found] == [("≥ 95%", "reached")]


def test_latencies_are_compared_with_the_better_peer() -> None:
    better = {**REPORT, "first_p50_ms": 2800.0, "between_max_ms": 1000.0, "tokens_per_s": 100.0}
    rows = {"http 32": record({OUR_SERVER: [REPORT], VLLM_SERVER: [better]})}
    assert [goal[3] for goal in goals(results(rows))] == ["reached", "reached", "missed"]


def test_prompt_lookup_has_a_target_where_it_copies_and_one_where_it_does_not() -> None:
    line = "{:12} plain    80.0 tok/s   lookup   160.0   ratio {} (0.90 to 2.10)   accepted 5 of 6"
    rows = {"lookup": record({}, output=[line.format("summary", 1.7), line.format("misleading", 1.0), "peaks"])}
    assert [(goal[1], goal[3]) for goal in goals(results(rows))] == [
        ("summary: 1.70 (0.90 to 2.10) x plain greedy", "missed"),
        ("misleading: 1.00 (0.90 to 2.10) x plain greedy", "reached"),
    ]


def test_what_was_not_run_is_said_with_its_reason() -> None:
    rows = {"decode 1": record({OURS: [90.0]}, not_run={VLLM: "not installed"})}
    table = parts(results(rows))["engines"]
    assert "| decode 1 | 90.0 (90.0 to 90.0) | not run | not run | not run |" in table
    assert f"Not run: {VLLM}: not installed." in table
    assert "Not measured yet: decode 4, decode 16, " in table


def test_a_limit_is_of_memory_for_one_sequence_and_of_arithmetic_for_many() -> None:
    one, many = ENGINE_ROWS[0], ENGINE_ROWS[3]
    assert limit(one, OURS, 30.0, 800.0) == pytest.approx(30e9 / step_bytes(OURS, 1))
    assert limit(many, OURS, 30.0, 800.0) == limit(many, OURS, 60.0, 800.0)
    assert step_bytes(OURS, 1) == pytest.approx(363e6, rel=0.01)


@pytest.mark.parametrize(
    ("instruction_set", "activation", "expected"),
    [
        ("avx2", "int8", "vpmaddubsw ymm"),
        ("avx2-vnni", "int8", "vpdpbusd ymm"),
        ("avx2-vnni", "int16", "vpdpbusd ymm twice"),
        ("avx512-vnni", "int16", "vpdpbusd zmm twice"),
        ("avx512-amx", "int16", "tdpbssd twice"),
    ],
)
def test_the_limit_of_arithmetic_is_that_of_the_instruction_that_multiplies(
    instruction_set: str, activation: str, expected: str
) -> None:
    assert instruction({"instruction_set": instruction_set, "activation_dtype": activation}) == expected


def test_a_later_run_adds_its_rows_to_earlier_ones(tmp_path: Path) -> None:
    kept, docs = tmp_path / "kept", tmp_path / "docs"
    (kept / "rows").mkdir(parents=True)
    docs.mkdir()
    names = parts(results({}) | {"rows": {"decode 1": record({})}})
    (docs / "performance.md").write_text(
        "".join(f"<!-- begin {name} -->\nold\n<!-- end {name} -->\n" for name in names)
    )
    whole = results({})
    for name, samples in (("decode 1", {OURS: [90.0]}), ("http 8", {OUR_SERVER: [REPORT]})):
        for path in (kept / "rows").iterdir():
            path.unlink()
        (kept / "rows" / "row.json").write_text(json.dumps({"name": name, **record(samples)}))
        (kept / "machine.json").write_text(json.dumps({key: whole[key] for key in whole if key != "rows"}))
        write_document(kept, docs)
    written = (docs / "performance.md").read_text()
    assert "| decode 1 | 90.0" in written
    assert f"| 8 | {OUR_SERVER} | 200.0" in written
    assert "old" not in written


def test_a_plot_is_svg_with_a_line_for_each_contender_and_a_point_for_each_size() -> None:
    rows = {row.name: record({OUR_SERVER: [REPORT], VLLM_SERVER: [REPORT]}) for row in SERVER_ROWS}
    (name, svg), *others = plots(results(rows)).items()
    tree, space = ElementTree.fromstring(svg), "{http://www.w3.org/2000/svg}"
    assert (name, others) == ("servers.svg", [])
    assert len(tree.findall(f"{space}polyline")) == 2
    assert len(tree.findall(f"{space}circle")) == 6


def test_the_probe_knows_the_instructions_of_the_limits(tmp_path: Path) -> None:
    program = tmp_path / "probe"
    source = ROOT / "benchmarks" / "comparison" / "probe.cpp"
    subprocess.run(["g++", "-O1", "-std=c++17", "-pthread", source, "-o", program], check=True)
    asked = "names\nread 1 1\npeak no such 1\n"
    done = subprocess.run([program], input=asked, capture_output=True, text=True, check=True)
    names, bandwidth, unknown = done.stdout.splitlines()
    assert "vfmadd231ps ymm" in names.split(",")
    assert float(bandwidth) > 0
    assert unknown == "-"
