"""The command ``ernie-triton doctor``: one line for each thing that serving needs, with one fix."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ernie_backend.devices.backend import AUTO, CPU, DEVICES, XPU, find_backend
from ernie_backend.devices.kunlunxin import UNCHECKED, VISIBLE_DEVICES, read_xpu_host
from ernie_backend.settings.kinds import Choice, Integer
from ernie_cli.doctor.bundle import write_bundle
from ernie_cli.doctor.finding import Finding, Verdict, warn
from ernie_cli.doctor.host_checks import check_host
from ernie_cli.doctor.selfcheck import check_device
from ernie_cli.doctor.xpu_checks import check_operators, check_xpu
from ernie_cli.flags.service import DEFAULT_PORT
from ernie_frontend.arguments import Parser, checked
from ernie_frontend.log_output import print_result

_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
FAILED_STATUS = 1


def doctor(arguments: Sequence[str]) -> int:
    """Print what this machine lacks to serve.

    Returns:
        The exit status: 0 if nothing prevents it, else 1.

    Raises:
        UsageError: the arguments are wrong.
        OSError: the bundle cannot be written.
    """
    options = _parser().read(arguments)
    backend, notice = find_backend(options.device)
    checks = _checks(options, backend.name, notice)
    findings = list(checks if options.json else _printed(checks))
    if options.json:
        print_result(json.dumps([each._asdict() for each in findings], indent=2))
    failures = sum(each.verdict is Verdict.FAIL for each in findings)
    if options.bundle is not None:
        write_bundle(options.bundle, findings, options.model and Path(options.model))
        sys.stderr.write(f"{options.bundle} is written; read it before you send it to anybody\n")
    return FAILED_STATUS if failures else 0


def _checks(options: object, device: str, notice: str | None) -> Iterator[Finding]:
    get = vars(options)
    if notice is not None:
        yield warn("device", notice, f"unset {VISIBLE_DEVICES}, or choose with --device cpu")
    parameters = {"tensor_parallel_size": str(get["tensor_parallel_size"]), "device": device}
    yield from check_host(get["port"], get["host"], get["model"], parameters)
    has_cards = True
    if device == XPU.name:
        for finding in chain(check_xpu(read_xpu_host(), get["tensor_parallel_size"]), [check_operators()]):
            has_cards &= finding.verdict is not Verdict.FAIL
            yield finding
    if not get["selfcheck"]:
        return
    if has_cards or os.environ.get(UNCHECKED) == "1":
        yield from check_device(device)
    else:
        fix = f"see to the failures of XPU above, or try with {UNCHECKED}=1"
        yield warn("self-check", "skipped: this machine does not meet the requirements of XPUs", fix)


def _printed(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Print each finding as soon as it is there: some take long."""
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        line = Text()
        line.append(f"{finding.verdict.value:4}", _STYLES[finding.verdict])
        line.append(f"  {finding.name}: {finding.found}")
        console.print(line)
        if finding.fix:
            console.print(Text(f"      fix: {finding.fix}"))
        yield finding


def _bundle(text: str) -> Path:
    """Return the path of a file that can be written, or raise ValueError: the checks may take minutes."""
    path = Path(text)
    if not path.parent.is_dir():
        raise ValueError(f"is {text}; there is no directory {path.parent}")
    if path.is_dir():
        raise ValueError(f"is {text}, a directory; it must be a file, such as {path / 'doctor.zip'}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"is {text}, which this user cannot write")
    return path


def _parser() -> Parser:
    parser = Parser("ernie-triton doctor", "Check whether this machine can serve, and what it lacks.")
    add = parser.add_argument
    devices = Choice(DEVICES)
    add(
        "--device",
        type=checked(devices.read),
        default=AUTO,
        metavar=devices.shown,
        help=f"where the model would run (default {AUTO}: an XPU if there is one, else {CPU.name})",
    )
    add("--model", metavar="DIRECTORY", help="a model to check, too, without loading it")
    add("--host", default="0.0.0.0", metavar="ADDRESS", help="of the API")  # noqa: S104 - as serve has it
    port, ranks = Integer(1, 65535), Integer(1, 1024)
    add(
        "--port",
        type=checked(port.read),
        default=DEFAULT_PORT,
        metavar="PORT",
        help="of the API (default %(default)s)",
    )
    add(
        "--tensor-parallel-size",
        type=checked(ranks.read),
        default=1,
        metavar="N",
        help="ranks that share the model (default %(default)s)",
    )
    add(
        "--selfcheck",
        action="store_true",
        help="compute each op and a tiny model of every family on the device, compare, and measure (minutes)",
    )
    add("--json", action="store_true", help="print a list of objects: name, verdict, found, fix")
    add(
        "--bundle",
        type=checked(_bundle),
        metavar="FILE.zip",
        help="write what a report needs, redacted, into this file",
    )
    return parser
