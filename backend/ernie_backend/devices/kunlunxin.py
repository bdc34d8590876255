"""The Kunlunxin cards of this host, and what serving on them needs.

FastDeploy's installation guide for the P800 requires driver 5.0.21.26, firmware 1.48, Python 3.10 and
paddlepaddle-xpu. Four ranks take the cards 0 to 3 or 4 to 7, which the links between cards connect: so says its
guide, and so do its tests. The columns of ``xpu-smi -m`` are those that SwanLab's ``kunlunxin.py`` reads. No
card was available to check any of it, so what cannot be read counts as unknown, not as wrong.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from ernie_backend.devices.host import is_container
from ernie_backend.errors import StartError

VISIBLE_DEVICES = "XPU_VISIBLE_DEVICES"
"""Chooses cards by their numbers, separated by commas; the program then sees them as 0, 1, ..."""
UNCHECKED = "ERNIE_XPU_UNCHECKED"
"""Set to 1, a start goes on although a requirement is not met."""
CONTROL_NODE = "xpuctrl"
LEAST_DRIVER, LEAST_FIRMWARE = "5.0.21.26", "1.48"
PADDLE_PYTHON = (3, 10)
PADDLES = ("paddlepaddle", "paddlepaddle-gpu", "paddlepaddle-xpu")
LINKED_CARDS = ((0, 1, 2, 3), (4, 5, 6, 7))
_INDEX, _USED_MIB, _TOTAL_MIB = 1, 17, 18
"""Columns of ``xpu-smi -m``, from 0."""
_SMI_TIMEOUT_S = 10.0
_VERSION = re.compile(r"\d+(?:\.\d+)+")


class Card(NamedTuple):
    """Memory of one card, in bytes, as xpu-smi shows it."""

    used_bytes: int
    total_bytes: int


class Problem(NamedTuple):
    """A requirement that is not met.

    Attributes:
        name: of the requirement.
        found: what is there instead.
        fix: what to do.
    """

    name: str
    found: str
    fix: str


@dataclass(frozen=True)
class XpuHost:
    """What this machine has for Kunlunxin cards.

    Attributes:
        num_nodes: device files of cards, ``/dev/xpu0``, ...; their numbers need not be those of the cards.
        has_control: whether there is ``/dev/xpuctrl``, through which a process opens a card.
        visible: ``XPU_VISIBLE_DEVICES``; None: it is not set, so all cards may be used.
        cards: by number, if xpu-smi shows them.
        driver, firmware: versions, if xpu-smi shows them.
        paddles: the installed distributions of Paddle and their versions.
        python: version of this interpreter.
        is_container: whether it is a container, which sees the devices that are passed into it.
    """

    num_nodes: int = 0
    has_control: bool = False
    visible: str | None = None
    cards: Mapping[int, Card] | None = None
    driver: str | None = None
    firmware: str | None = None
    paddles: Mapping[str, str] | None = None
    python: tuple[int, int] = (3, 10)
    is_container: bool = False

    @property
    def chosen(self) -> tuple[int, ...]:
        """Numbers of the cards that may be used, in the order in which ranks take them.

        Raises:
            StartError: ``XPU_VISIBLE_DEVICES`` is not a list of different numbers.
        """
        if self.visible is None:
            return tuple(range(self.num_nodes))
        names = [each.strip() for each in self.visible.split(",")] if self.visible.strip() else []
        if not all(each.isdecimal() for each in names) or len(set(names)) < len(names):
            raise StartError(
                f"{VISIBLE_DEVICES} is {self.visible!r}; it must be different numbers separated by commas, "
                "such as 0,1,2,3"
            )
        return tuple(map(int, names))

    def free_bytes(self, num_ranks: int) -> int | None:
        """Return the least free memory among the cards that ``num_ranks`` ranks take; None: unknown."""
        free = [self.card_free_bytes(place) for place in range(len(self.chosen[:num_ranks]))]
        known = [each for each in free if each is not None]
        return min(known) if known and len(known) == len(free) else None

    def card_free_bytes(self, place: int) -> int | None:
        """Return the free memory of the card that this program sees as ``place``; None: unknown."""
        card = (self.cards or {}).get(self.chosen[place]) if place < len(self.chosen) else None
        return None if card is None else card.total_bytes - card.used_bytes


def read_xpu_host(
    root: Path = Path("/"),
    environment: Mapping[str, str] = os.environ,
    run: Callable[[Sequence[str]], str] | None = None,
    installed: Callable[[str], str] = metadata.version,
) -> XpuHost:
    """Return what this machine has.

    Args:
        root: of its files.
        environment: of this process.
        run: runs a command and returns its output; default: for at most 10 s.
        installed: returns the version of a distribution, or raises PackageNotFoundError.
    """
    nodes = list((root / "dev").glob("xpu[0-9]*"))
    run = run or _output_of
    query = run(("xpu-smi", "-q"))
    return XpuHost(
        num_nodes=len(nodes),
        has_control=(root / "dev" / CONTROL_NODE).exists(),
        visible=environment.get(VISIBLE_DEVICES),
        cards=_cards(run(("xpu-smi", "-m"))) if nodes else {},
        driver=_version_in(query, "Driver Version"),
        firmware=_version_in(query, "Firmware"),
        paddles={name: version for name in PADDLES if (version := _installed(name, installed))},
        python=sys.version_info[:2],
        is_container=is_container(root, environment),
    )


def problems(host: XpuHost, num_ranks: int) -> Iterator[Problem]:
    """Yield the requirements that the host does not meet for ``num_ranks`` ranks; the unknown counts as met."""
    yield from _card_problems(host, num_ranks)
    if not host.has_control:
        in_container = f"pass it into this container, too: docker run --device /dev/{CONTROL_NODE}"
        fix = in_container if host.is_container else "it comes with the driver: install and load that"
        yield Problem("control device", f"there is no /dev/{CONTROL_NODE}", fix)
    for name, version, least in (
        ("driver", host.driver, LEAST_DRIVER),
        ("firmware", host.firmware, LEAST_FIRMWARE),
    ):
        if version is not None and _numbers(version) < _numbers(least):
            yield Problem(name, f"version {version}", f"install {least} or later on the host")
    yield from _paddle_problems(host)


def check_xpu_host(
    host: XpuHost, num_ranks: int, environment: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """Return notices about the host's cards.

    Raises:
        StartError: a requirement is not met, and the user has not set ``ERNIE_XPU_UNCHECKED``.
    """
    unmet = tuple(problems(host, num_ranks))
    found = tuple(f"XPU {each.name}: {each.found}; {each.fix}" for each in unmet)
    if unmet and environment.get(UNCHECKED) != "1":
        raise StartError("; ".join(found) + f" ({UNCHECKED}=1 starts all the same)", layout=_layout(unmet))
    return found


def _layout(unmet: Sequence[Problem]) -> str:
    """Return the problems as a person reads them: what, and the way out below it."""
    rows = (f"  {each.name}: {each.found}\n    fix: {each.fix}" for each in unmet)
    return "\n".join(
        [
            "this machine lacks what serving on XPUs needs:",
            *rows,
            f"ernie-triton doctor --device xpu checks the rest, too; {UNCHECKED}=1 starts all the same.",
        ]
    )


def _paddle_problems(host: XpuHost) -> Iterator[Problem]:
    paddles = host.paddles or {}
    others = " ".join(each for each in paddles if each != "paddlepaddle-xpu")
    if len(paddles) > 1:
        names = " and ".join(f"{name} {version}" for name, version in paddles.items())
        fix = f"pip uninstall {others}, then install paddlepaddle-xpu again: they share their files"
        yield Problem("Paddle", f"{names} are installed", fix)
    elif "paddlepaddle-xpu" not in paddles:
        has = " and ".join(paddles) or "no Paddle"
        first = f"pip uninstall {others}, then " if others else ""
        yield Problem("Paddle", f"{has} is installed", f"{first}install paddlepaddle-xpu (docs/xpu.md)")
        if host.python != PADDLE_PYTHON:
            needed = ".".join(map(str, PADDLE_PYTHON))
            fix = f"make the environment with python{needed}: paddlepaddle-xpu exists for Python {needed} only"
            yield Problem("Python", f"version {'.'.join(map(str, host.python))}", fix)


def _card_problems(host: XpuHost, num_ranks: int) -> Iterator[Problem]:
    if not host.num_nodes:
        in_container = (
            f"pass them into this container: docker run --device /dev/{CONTROL_NODE} --device /dev/xpu0 ..."
        )
        fix = in_container if host.is_container else f"install and load the driver, {LEAST_DRIVER} or later"
        yield Problem("cards", "there is no /dev/xpu*", f"{fix}; or use --device cpu")
        return
    try:
        chosen = host.chosen
    except StartError:
        fix = "write different numbers separated by commas, such as 0,1,2,3"
        yield Problem(VISIBLE_DEVICES, f"it is {host.visible!r}", fix)
        return
    unknown = [each for each in chosen if each >= host.num_nodes]
    if unknown:
        fix = f"the cards are 0 to {host.num_nodes - 1}"
        yield Problem(VISIBLE_DEVICES, f"it names card {unknown[0]} of {host.num_nodes}", fix)
    elif len(chosen) < num_ranks:
        fix = f"set {VISIBLE_DEVICES} to {num_ranks} cards, or --tensor-parallel-size {len(chosen) or 1}"
        yield Problem("cards", f"{num_ranks} ranks have {len(chosen)} cards", fix)
    elif num_ranks == 4 and tuple(sorted(chosen[:4])) not in LINKED_CARDS:
        sets = " or ".join(",".join(map(str, each)) for each in LINKED_CARDS)
        taken = ",".join(map(str, chosen[:4]))
        yield Problem("cards", f"four ranks take the cards {taken}", f"set {VISIBLE_DEVICES} to {sets}")


def _cards(table: str) -> dict[int, Card]:
    """Return the cards in the output of ``xpu-smi -m``; rows in another form are left out."""
    cards = {}
    for row in table.splitlines():
        columns = row.split()
        numbers = [columns[each] for each in (_INDEX, _USED_MIB, _TOTAL_MIB) if each < len(columns)]
        if len(numbers) == 3 and all(each.isdecimal() for each in numbers):
            index, used, total = map(int, numbers)
            cards[index] = Card(used << 20, total << 20)
    return cards


def _version_in(query: str, name: str) -> str | None:
    """Return the first version in the rows ``name ... : version`` of ``xpu-smi -q``."""
    values = (row.partition(":")[2] for row in query.splitlines() if name in row.partition(":")[0])
    found = (_VERSION.search(value) for value in values)
    return next((each[0] for each in found if each), None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _installed(name: str, version_of: Callable[[str], str]) -> str | None:
    try:
        return version_of(name)
    except metadata.PackageNotFoundError:
        return None


def _output_of(command: Sequence[str]) -> str:
    """Return what a command prints; nothing if it does not exist, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout if done.returncode == 0 else ""
