"""Checks of a host with Kunlunxin cards."""

from __future__ import annotations

from collections.abc import Iterator

from ernie_backend.devices.kunlunxin import LEAST_DRIVER, LEAST_FIRMWARE, XpuHost, problems
from ernie_backend.errors import StartError
from ernie_backend.planning.units import format_bytes
from ernie_cli.doctor.finding import Finding, fail, ok, warn


def check_xpu(host: XpuHost, num_ranks: int) -> Iterator[Finding]:
    """Yield what was found out about the cards for ``num_ranks`` ranks."""
    try:
        found = list(problems(host, num_ranks))
        chosen = host.chosen
    except StartError as error:
        yield fail("XPU_VISIBLE_DEVICES", error.message, "write it as the message says")
        return
    for problem in found:
        yield fail(f"XPU {problem.name}", problem.found, problem.fix)
    if not host.num_nodes:
        return
    yield ok("XPU cards", f"{host.num_nodes} in this machine; a service takes {', '.join(map(str, chosen))}")
    for name, version, least in (
        ("driver", host.driver, LEAST_DRIVER),
        ("firmware", host.firmware, LEAST_FIRMWARE),
    ):
        if version is None:
            fix = f"put xpu-smi on PATH; it must be {least} or later"
            yield warn(f"XPU {name}", "unknown: xpu-smi -q does not show it", fix)
        elif name not in (problem.name for problem in found):
            yield ok(f"XPU {name}", version)
    for number in chosen:
        card = (host.cards or {}).get(number)
        if card is None:
            yield warn(f"XPU card {number}", "unknown: xpu-smi -m does not show it", "put xpu-smi on PATH")
            continue
        memory = f"{format_bytes(card.total_bytes - card.used_bytes)} free of {format_bytes(card.total_bytes)}"
        if card.used_bytes > card.total_bytes // 10:
            fix = "end the processes that xpu-smi lists, or choose another card with XPU_VISIBLE_DEVICES"
            yield warn(f"XPU card {number}", memory, fix)
        else:
            yield ok(f"XPU card {number}", memory)
