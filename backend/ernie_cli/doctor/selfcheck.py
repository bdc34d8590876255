"""Runs the self-check in processes of its own and reads what they print, or how they ended."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping

from ernie_backend.devices.backend import CPU, REFERENCE, XPU
from ernie_backend.selfcheck import NOT_STARTED_STATUS
from ernie_cli.doctor.finding import Finding, fail, ok

_TIMEOUT_S = 1800
_FALLBACK = re.compile(r"fallbacking to CPU.*", re.IGNORECASE)
"""What Paddle logs, at level 3, when an op runs on the CPU because the card has no kernel for it."""
_FULL_FLOAT32 = "XPU_PADDLE_FC_FLOAT"
_INSTALL = {
    CPU.name: "install ernie-triton again; it brings the kernels for CPUs",
    REFERENCE.name: "install ernie-triton again",
    XPU.name: "see to the lines on XPU above and follow docs/xpu.md, or serve with --device cpu",
}
"""What to do where a device cannot be used at all."""
_FIX = "report it with the bundle (--bundle); until then serve with --device cpu"


def check_device(device: str) -> Iterator[Finding]:
    """Yield the findings of the self-check on a device; on cards, also what full float32 products change."""
    rates: dict[str, float] = {}
    if device != XPU.name:
        yield from _run(device, (), {}, rates)
        return
    yield from _run(device, (), {"GLOG_v": "3", "GLOG_logtostderr": "1"}, rates)
    if not rates:  # it did not come so far
        return
    slower: dict[str, float] = {}
    for finding in _run(device, ("rates",), {_FULL_FLOAT32: "1"}, slower):
        yield finding._replace(name=f"{finding.name}, {_FULL_FLOAT32}=1")
    yield from compared_rates(rates, slower)


def compared_rates(plain: Mapping[str, float], full: Mapping[str, float]) -> Iterator[Finding]:
    """Yield how much slower each rate is with full float32 products."""
    ratios = {name: plain[name] / full[name] for name in plain if full.get(name)}
    if ratios:
        found = "; ".join(f"{name.removeprefix('rate, ')}: {ratio:.1f} times" for name, ratio in ratios.items())
        yield ok(_FULL_FLOAT32, f"how much slower with 1, leave it unset: {found}")


def _run(
    device: str, arguments: tuple[str, ...], variables: Mapping[str, str], rates: dict[str, float]
) -> Iterator[Finding]:
    """Yield findings; put what was measured into ``rates``."""
    command = [sys.executable, "-m", "ernie_backend.selfcheck", device, *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **variables},
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        yield fail("self-check", f"did not end within {_TIMEOUT_S} s", _FIX)
        return
    for line in done.stdout.splitlines():
        check = json.loads(line)
        if check["rate"]:
            rates[check["name"]] = check["rate"]
        if check["passed"]:
            yield ok(check["name"], check["found"])
        else:
            yield fail(check["name"], f"{check['found']}: {check['means']}", _FIX)
    fallbacks = sorted(set(_FALLBACK.findall(done.stderr)))
    if fallbacks:
        yield fail("CPU fallbacks", "; ".join(fallbacks)[:500], "these ops run on the CPU, silently: " + _FIX)
    lines = done.stderr.strip().splitlines() or ["no output"]
    if done.returncode == NOT_STARTED_STATUS:
        yield fail("self-check", lines[-1][:300], _INSTALL[device])
    elif done.returncode != 0:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
        yield fail("self-check", f"ended with {how}: {lines[-1][:300]}", _FIX)
