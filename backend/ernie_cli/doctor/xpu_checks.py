"""Checks of a host with Kunlunxin cards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from ernie_backend.devices.kunlunxin import (
    CONTROL_NODE,
    LEAST_DRIVER,
    LEAST_FIRMWARE,
    VISIBLE_DEVICES,
    XpuHost,
    problems,
)
from ernie_backend.devices.xpu_ops import COMPOSED, XPU_OPS, chosen_ops, fastdeploy_file
from ernie_backend.errors import StartError
from ernie_backend.planning.units import format_bytes
from ernie_cli.doctor.finding import Finding, fail, ok, warn

_OPERATORS = "XPU operators"
_LOAD_TIMEOUT_S = 120
_LEAST = {"driver": LEAST_DRIVER, "firmware": LEAST_FIRMWARE}


def check_xpu(host: XpuHost, num_ranks: int) -> Iterator[Finding]:
    """Yield a finding for each requirement of ``num_ranks`` ranks, met or not, and for each card."""
    found = {problem.name: problem for problem in problems(host, num_ranks)}
    for problem in found.values():
        yield fail(f"XPU {problem.name}", problem.found, problem.fix)
    met = {
        "control device": f"/dev/{CONTROL_NODE}",
        "driver": host.driver,
        "firmware": host.firmware,
        "Paddle": " and ".join(f"{name} {version}" for name, version in (host.paddles or {}).items()),
        "Python": ".".join(map(str, host.python)),
    }
    for name, value in met.items():
        if value is None:
            fix = f"put xpu-smi on PATH; it must be {_LEAST[name]} or later"
            yield warn(f"XPU {name}", "unknown: xpu-smi -q does not show it", fix)
        elif name not in found:
            yield ok(f"XPU {name}", value)
    if host.num_nodes and VISIBLE_DEVICES not in found:
        yield from _cards(host, has_enough="cards" not in found)


def check_operators() -> Finding:
    """Return which operators would compute, and what follows from that.

    FastDeploy's tell their version once they are loaded, which takes a process of its own: they may end it.
    """
    try:
        file, is_chosen = fastdeploy_file(), chosen_ops() == COMPOSED
    except StartError as error:
        return fail(_OPERATORS, error.message, f"unset {XPU_OPS} to take what is installed")
    if file is None:
        why = f"{XPU_OPS} is {COMPOSED}" if is_chosen else "FastDeploy's are not installed in this Python"
        found = f"{why}: all are composed of Paddle's, the slow fallback, which takes every setting"
        fix = f"unset {XPU_OPS}" if is_chosen else "pip install --requirement docker/requirements-xpu.txt"
        return warn(_OPERATORS, found, f"{fix} (docs/xpu.md)")
    command = [sys.executable, "-m", "ernie_kernels.fastdeploy", str(file)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_LOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return fail(_OPERATORS, f"{file} does not load within {_LOAD_TIMEOUT_S} s", f"{XPU_OPS}={COMPOSED}")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"loading {file} ends with status {done.returncode}"])[-1]
        return fail(
            _OPERATORS, last, f"install the versions of docker/requirements-xpu.txt, or {XPU_OPS}={COMPOSED}"
        )
    return ok(_OPERATORS, f"FastDeploy's in {file}, version {done.stdout.strip().splitlines()[-1]}")


def _cards(host: XpuHost, *, has_enough: bool) -> Iterator[Finding]:
    if has_enough:
        taken = ", ".join(map(str, host.chosen))
        yield ok("XPU cards", f"{host.num_nodes} in this machine; a service takes {taken}")
    for number in host.chosen:
        yield _card(host, number)


def _card(host: XpuHost, number: int) -> Finding:
    card = (host.cards or {}).get(number)
    if card is None:
        return warn(f"XPU card {number}", "unknown: xpu-smi -m does not show it", "put xpu-smi on PATH")
    memory = f"{format_bytes(card.total_bytes - card.used_bytes)} free of {format_bytes(card.total_bytes)}"
    if card.used_bytes > card.total_bytes // 10:
        fix = "end the processes that xpu-smi lists, or choose another card with XPU_VISIBLE_DEVICES"
        return warn(f"XPU card {number}", memory, fix)
    return ok(f"XPU card {number}", memory)
