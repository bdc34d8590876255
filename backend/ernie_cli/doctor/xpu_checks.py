"""Checks of a host with Kunlunxin cards."""

from __future__ import annotations

from collections.abc import Iterator

from ernie_backend.devices.kunlunxin import (
    CONTROL_NODE,
    LEAST_DRIVER,
    LEAST_FIRMWARE,
    VISIBLE_DEVICES,
    XpuHost,
    problems,
)
from ernie_backend.planning.units import format_bytes
from ernie_cli.doctor.finding import Finding, fail, ok, warn

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
