"""The targets, each beside what was measured: ratios of medians, with the range of the rounds' ratios."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from typing import Any

from comparison import rows
from comparison.limits import step_bytes
from comparison.rows import ENGINE_ROWS, ROWS_21B, SERVER_ROWS, Row

Results = dict[str, Any]
Goal = tuple[str, str, str, str]
"""Work, what was measured, the target, whether it was reached."""

BANDWIDTH_SHARE, OVERHEAD_SHARE = 0.95, 0.03
PREFILL_21B, DECODE_21B_INT4 = 82.0, 1.2
FIRST_SHARE, GAP_SHARE = 1 / 3, 1 / 4
STEP_EXTRA_MS, FIRST_EXTRA_MS = 2.0, 5.0
COPYING = ("summary", "code_edit")
"""Transcripts whose answers copy; on the others prompt lookup must not cost much."""
COPYING_RATIO, OTHER_RATIO = 1.8, 0.97
FIRST_START_S, SECOND_START_S, EXTRA_BYTES = 10.0, 3.0, 500e6


def goals(results: Results) -> list[Goal]:
    """Return the lines of the table; what was not measured is left out."""
    found = [*_ratios(results), *_bandwidth(results), *_of_21b(results), *_latencies(results)]
    return [*found, *_one_client(results), *_overhead(results), *_start(results), *_lookup(results)]


def _verdict(is_reached: bool) -> str:
    return "reached" if is_reached else "missed"


def _samples(results: Results, row: str, name: str, key: str = "tokens_per_s") -> list[float]:
    found = results["rows"].get(row, {"samples": {}})["samples"].get(name, [])
    return [each[key] if isinstance(each, dict) else each for each in found]


def _median(results: Results, row: str, name: str, key: str = "tokens_per_s") -> float | None:
    samples = _samples(results, row, name, key)
    return statistics.median(samples) if samples else None


def _ratio(results: Results, row: Row, name: str, peer: str, target: float) -> Iterator[Goal]:
    ours, theirs = _samples(results, row.name, name), _samples(results, row.name, peer)
    if ours and theirs:
        ratio = statistics.median(ours) / statistics.median(theirs)
        each = [a / b for a, b in zip(ours, theirs, strict=False)]
        measured = f"{ratio:.2f} ({min(each):.2f} to {max(each):.2f}) x {peer}"
        yield row.name, measured, f"≥ {target:g} x", _verdict(ratio >= target)


def _ratios(results: Results) -> Iterator[Goal]:
    for row in (*ENGINE_ROWS, *ROWS_21B, *SERVER_ROWS):
        for peer, target in row.targets.items():
            yield from _ratio(results, row, row.contenders[0], peer, target)


def _bandwidth(results: Results) -> Iterator[Goal]:
    for row, name in (
        ("decode 1", rows.OURS),
        ("21b decode 1", rows.OURS_21B),
        ("21b decode 16", rows.OURS_21B),
    ):
        samples = _samples(results, row, name)
        if samples:
            probed = results["rows"][row]["bandwidth"]
            batch = int(row.rpartition(" ")[2])
            read = step_bytes(name, batch) / batch / 1e9
            shares = [read * value / most for value, most in zip(samples, probed, strict=False)]
            share = statistics.median(shares)
            measured = f"{share:.0%} ({min(shares):.0%} to {max(shares):.0%}) of the bandwidth probed beside it"
            yield row, measured, f"≥ {BANDWIDTH_SHARE:.0%}", _verdict(share >= BANDWIDTH_SHARE)


def _of_21b(results: Results) -> Iterator[Goal]:
    row = next(row for row in ROWS_21B if row.kind == "prefill")
    value = _median(results, row.name, rows.OURS_21B)
    if value is not None:
        yield row.name, f"{value:.1f} tokens/s", f"≥ {PREFILL_21B:g}", _verdict(value >= PREFILL_21B)
    yield from _ratio(results, ROWS_21B[0], rows.OURS_21B_INT4, rows.LLAMA_21B, DECODE_21B_INT4)


def _latencies(results: Results) -> Iterator[Goal]:
    row = SERVER_ROWS[-1]
    for key, meaning, share in (
        ("first_p50_ms", "median time to the first token", FIRST_SHARE),
        ("between_max_ms", "longest time between tokens", GAP_SHARE),
    ):
        ours = _median(results, row.name, rows.OUR_SERVER, key)
        theirs = [
            value for peer in row.contenders[1:] if (value := _median(results, row.name, peer, key)) is not None
        ]
        if ours is not None and theirs:
            best = min(theirs)
            measured = f"{meaning} {ours:,.0f} ms, the better peer's {best:,.0f} ms"
            yield row.name, measured, f"≤ {share:.2g} x", _verdict(ours <= share * best)


def _one_client(results: Results) -> Iterator[Goal]:
    step, prefill = _median(results, "decode 1", rows.OURS), _median(results, "prefill 128", rows.OURS)
    between = _median(results, "http 1", rows.OUR_SERVER, "between_p50_ms")
    first = _median(results, "http 1", rows.OUR_SERVER, "first_p50_ms")
    if step is not None and between is not None:
        measured = f"{between:.1f} ms between tokens, the engine's step {1000 / step:.1f} ms"
        is_reached = between <= 1000 / step + STEP_EXTRA_MS
        yield "http 1", measured, f"≤ the step + {STEP_EXTRA_MS:g} ms", _verdict(is_reached)
    if prefill is not None and first is not None:
        alone = 1000 * rows.HTTP_PROMPT / prefill
        measured = f"{first:.0f} ms to the first token, the engine alone {alone:.0f} ms"
        is_reached = first <= alone + FIRST_EXTRA_MS
        yield "http 1", measured, f"≤ the engine's + {FIRST_EXTRA_MS:g} ms", _verdict(is_reached)


def _overhead(results: Results) -> Iterator[Goal]:
    for row in ENGINE_ROWS:
        value = _median(results, row.name, rows.OURS) if row.kind == "overhead" else None
        if value is not None:
            measured = f"{value:.1%} of a step is outside the kernels"
            yield row.name, measured, f"≤ {OVERHEAD_SHARE:.0%}", _verdict(value <= OVERHEAD_SHARE)


def _start(results: Results) -> Iterator[Goal]:
    for name, most in (("first start", FIRST_START_S), ("second start", SECOND_START_S)):
        value = _median(results, rows.START_ROW, name, "ready_s")
        if value is not None:
            yield rows.START_ROW, f"{name}: ready after {value:.1f} s", f"≤ {most:g} s", _verdict(value <= most)
    resident = _median(results, rows.START_ROW, "second start", "resident_bytes")
    weights = results["contenders"].get(rows.OURS, {}).get("weight_bytes")
    if resident is not None and weights is not None:
        extra = resident - weights
        measured = f"{resident / 1e6:,.0f} MB resident, {weights / 1e6:,.0f} MB of them weights"
        yield rows.START_ROW, measured, "≤ weights + 500 MB", _verdict(extra <= EXTRA_BYTES)


def _lookup(results: Results) -> Iterator[Goal]:
    for line in results["rows"].get(rows.LOOKUP_ROW, {}).get("output", []):
        if found := re.match(r"(\S+) +plain .* ratio ([\d.]+) (\([^)]*\))", line):
            name, ratio, spread = found[1], float(found[2]), found[3]
            target = COPYING_RATIO if name in COPYING else OTHER_RATIO
            measured = f"{name}: {ratio:.2f} {spread} x plain greedy"
            yield rows.LOOKUP_ROW, measured, f"≥ {target:g} x", _verdict(ratio >= target)
