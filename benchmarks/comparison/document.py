"""Writes the measured parts of docs/performance.md, and its plots, from what was kept.

All samples are in docs/performance/results.json, which a run adds to; tables and plots follow from that file
alone. A part of the document is between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comparison import rows
from comparison.goals import goals
from comparison.limits import instruction, limit
from comparison.plots import Line, Plot
from comparison.rows import ENGINE_ROWS, ROWS_21B, SERVER_ROWS, Row

Results = dict[str, Any]
PLOT_TITLES = {
    "decode.svg": "Decode, ERNIE-4.5-0.3B's shape: tokens a second of all sequences",
    "servers.svg": "Servers: tokens a second of all clients, 128 tokens in and 128 out",
}


def write_document(kept: Path, docs: Path) -> None:
    """Add kept records to the document's, and write its parts and plots."""
    folder = docs / "performance"
    folder.mkdir(exist_ok=True)
    path = folder / "results.json"
    results: Results = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    for file in sorted((kept / "rows").glob("*.json")):
        record = json.loads(file.read_text())
        results["rows"][record["name"]] = record
    results.update(json.loads((kept / "machine.json").read_text()))
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    for name, svg in plots(results).items():
        (folder / name).write_text(svg)
    document = docs / "performance.md"
    document.write_text(with_parts(document.read_text(), parts(results)))


def with_parts(text: str, written: dict[str, str]) -> str:
    """Return the document with its parts replaced.

    Raises:
        ValueError: it has no marks of a part.
    """
    for name, part in written.items():
        marks = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.S)
        if not marks.search(text):
            raise ValueError(f"docs/performance.md has no <!-- begin {name} --> and <!-- end {name} -->")
        text = marks.sub(lambda match, part=part: f"{match[1]}{part}\n{match[2]}", text)  # type: ignore[misc]
    return text


def parts(results: Results) -> dict[str, str]:
    """Return the text of each part."""
    return {
        "machine": _machine(results),
        "goals": _table(("work", "measured", "target", ""), goals(results)),
        "engines": _engines(results, ENGINE_ROWS),
        "plots": "\n\n".join(_image(name) for name in plots(results)) or "No plots: nothing was measured yet.",
        "21b": _engines(results, ROWS_21B),
        "servers": _servers(results),
        "start": _start(results),
        "lookup": _output(results, rows.LOOKUP_ROW),
        "kernels": _output(results, rows.KERNELS_ROW),
    }


def _image(name: str) -> str:
    return f"![{PLOT_TITLES[name]}](performance/{name})"


def _machine(results: Results) -> str:
    if not results["rows"]:
        return "Nothing was measured yet."
    of, found = results["machine"], results["contenders"]
    measured = sorted(record["when"][:16].replace("T", " ") for record in results["rows"].values())
    loads = [load for record in results["rows"].values() for load in record["load"]]
    bandwidth = [value for record in results["rows"].values() for value in record["memory"]]
    lines = [
        f"- {of['processor']}, family {of['family']}, model {of['model']}: {of['cores']} cores, "
        f"{of['memory_gib']} GiB of memory, Linux {of['kernel']}. Instructions: {', '.join(of['flags'])}.",
        f"- Measured from {measured[0]} to {measured[-1]} UTC with {results['threads']} threads; load of the"
        f" machine (of the last minute, our own work included) {min(loads):.1f} to {max(loads):.1f}.",
    ]
    if bandwidth:
        lines.append(
            f"- Memory, probed beside every row: {_range(bandwidth, '.1f')} GB/s, least to greatest"
            f" {min(bandwidth):.1f} to {max(bandwidth):.1f}."
        )
    lines.append(
        "- Peaks of instructions: "
        + ", ".join(f"`{name}` {value:,.0f}" for name, value in sorted(results["peaks"].items()))
        + " GOP/s."
    )
    for name, facts in sorted(found.items()):
        if "instruction_set" in facts:
            lines.append(
                f"- {name}: instruction set `{facts['instruction_set']}`, activations"
                f" {facts['activation_dtype']}, products by `{instruction(facts)}`."
            )
    versions = sorted({facts["version"] for facts in found.values() if "version" in facts} - {"ernie-triton"})
    lines.append(f"- Ours: commit {of['commit']}, Python {of['python']}.")
    lines.append(f"- Peers: {', '.join(versions) or 'none was run'}.")
    return "\n".join(lines)


def _range(values: Sequence[float], form: str) -> str:
    return format(statistics.median(values), form)


def _cell(values: Sequence[float], form: str = ".1f") -> str:
    """Return the median and the range of samples."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    ruled = [titles, ["---"] * len(titles), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in ruled)


def _contender_cell(results: Results, row: Row, name: str) -> str:
    record = results["rows"].get(row.name, {"samples": {}})
    samples = record["samples"].get(name)
    if not samples:
        return "not run"
    return _cell([100 * each for each in samples]) + " %" if row.kind == "overhead" else _cell(samples)


def row_limit(results: Results, row: Row) -> float | None:
    """Return what memory and arithmetic allow ours in a row; None: it was not run."""
    name, record = row.contenders[0], results["rows"].get(row.name)
    facts = results["contenders"].get(name, {})
    if record is None or not record["bandwidth"] or "instruction_set" not in facts or row.kind == "overhead":
        return None
    peak = results["peaks"].get(instruction(facts))
    return None if peak is None else limit(row, name, statistics.median(record["bandwidth"]), peak)


def _engines(results: Results, chosen: Sequence[Row]) -> str:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in chosen:
        groups.setdefault(row.contenders, []).append(row)
    texts = []
    for contenders, of_group in groups.items():
        lines = []
        for row in of_group:
            reached = row_limit(results, row)
            cells = [_contender_cell(results, row, name) for name in contenders]
            lines.append([row.name, *cells, "-" if reached is None else f"{reached:,.0f}"])
        texts.append(_table(("work", *contenders, "limit"), lines))
    return "\n\n".join([*texts, *_reasons(results, chosen)])


def _reasons(results: Results, chosen: Sequence[Row]) -> list[str]:
    """Return which rows were not measured, and why contenders were not run."""
    missing = [row.name for row in chosen if row.name not in results["rows"]]
    reasons = {}
    for row in chosen:
        reasons.update(results["rows"].get(row.name, {"not_run": {}})["not_run"])
    lines = [f"Not measured yet: {', '.join(missing)}."] if missing else []
    return [*lines, *(f"Not run: {name}: {reason.rstrip('.')}." for name, reason in sorted(reasons.items()))]


def _servers(results: Results) -> str:
    lines = []
    for row in SERVER_ROWS:
        record = results["rows"].get(row.name, {"samples": {}})
        for name in row.contenders:
            samples = record["samples"].get(name)
            if not samples:
                lines.append([str(row.size), name, "not run", *[""] * 5])
                continue
            columns = {key: [each[key] for each in samples] for key in samples[0]}
            first = [_range(columns[f"first_{rank}_ms"], ",.0f") for rank in ("p50", "p99")]
            between = [_range(columns[f"between_{rank}_ms"], ",.1f") for rank in ("p50", "p99", "max")]
            lines.append([str(row.size), name, _cell(columns["tokens_per_s"]), *first, *between])
    titles = (
        "clients",
        "server",
        "tokens/s",
        "first token p50, ms",
        "p99",
        "between tokens p50, ms",
        "p99",
        "longest",
    )
    return "\n\n".join([_table(titles, lines), *_reasons(results, SERVER_ROWS)])


def _start(results: Results) -> str:
    record = results["rows"].get(rows.START_ROW, {"samples": {}})
    lines = []
    for name, samples in record["samples"].items():
        ready = _cell([each["ready_s"] for each in samples])
        resident = _range([each["resident_bytes"] / 2**20 for each in samples], ",.0f")
        lines.append([f"ernie-triton serve wint8, {name}", ready, resident, "-"])
    for name in (rows.OUR_SERVER, rows.LLAMA_SERVER, rows.VLLM_SERVER):
        facts = results["contenders"].get(name)
        if facts is not None:
            mebibytes = [f"{facts[key] / 2**20:,.0f}" for key in ("resident_bytes", "loaded_bytes")]
            lines.append([f"{name}, once", f"{facts['ready_s']:.1f}", *mebibytes])
    titles = ("server", "ready after, s", "resident then, MiB", "resident after the rows above, MiB")
    return _table(titles, lines) if lines else "Not measured yet."


def _output(results: Results, name: str) -> str:
    record = results["rows"].get(name)
    if record is None or not record.get("output"):
        reason = "not measured yet" if record is None else "; ".join(record["not_run"].values())
        return f"Not run: {reason.rstrip('.')}."
    return "\n".join(["```", *record["output"], "```"])


def _points(results: Results, chosen: Sequence[Row], name: str) -> list[tuple[float, float, float, float]]:
    points = []
    for row in chosen:
        samples = results["rows"].get(row.name, {"samples": {}})["samples"].get(name)
        if samples:
            values = [each["tokens_per_s"] if isinstance(each, dict) else each for each in samples]
            points.append((float(row.size), statistics.median(values), min(values), max(values)))
    return points


def _lines(results: Results, chosen: Sequence[Row]) -> list[Line]:
    found = [Line(name, _points(results, chosen, name)) for name in chosen[0].contenders]
    return [line for line in found if line.points]


def plots(results: Results) -> dict[str, str]:
    """Return the plots by the names of their files; a plot without any point is not drawn."""
    drawn = {}
    decode = [row for row in ENGINE_ROWS if row.name.startswith("decode")]
    lines = _lines(results, decode)
    if lines:
        limits = [(row, row_limit(results, row)) for row in decode]
        points = [(float(row.size), found, found, found) for row, found in limits if found is not None]
        limited = [Line("limit of memory and arithmetic (ours)", points, is_limit=True)] if points else []
        title = PLOT_TITLES["decode.svg"]
        drawn["decode.svg"] = Plot(title, "sequences in the batch", "tokens/s", [*lines, *limited]).draw()
    if lines := _lines(results, SERVER_ROWS):
        title = PLOT_TITLES["servers.svg"]
        drawn["servers.svg"] = Plot(title, "clients", "tokens/s", lines).draw()
    return drawn
