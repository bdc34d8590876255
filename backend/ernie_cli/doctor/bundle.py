"""A ZIP file with what a report of a fault needs: findings, versions, hardware; no names, no keys."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from ernie_cli.doctor.finding import Finding
from ernie_cli.flags.environment import READ

_FILES = ("/proc/cpuinfo", "/proc/meminfo", "/proc/version", "/proc/self/limits", "/proc/self/cgroup")
_SHOWN_PREFIXES = ("XPU", "BKCL_", "FLAGS_", "ERNIE_", "FD_", "OMP_", "MKL_", "GLOG_")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


def write_bundle(path: Path, findings: Sequence[Finding], model: Path | None) -> None:
    """Write the bundle; an existing file is replaced.

    Raises:
        OSError: it cannot be written.
    """
    contents = {
        "findings.json": json.dumps([each._asdict() for each in findings], indent=2),
        "packages.txt": "\n".join(sorted(_packages())),
        "environment.txt": "\n".join(shown_environment(os.environ)),
        "system.txt": f"{platform.platform()}\nPython {platform.python_version()}",
        **{f"system{name}": _text(Path(name)) for name in _FILES},
    }
    if model is not None:
        contents["config.json"] = _text(model / "config.json")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in contents.items():
            archive.writestr(name, redacted(text))


def shown_environment(environment: Mapping[str, str]) -> list[str]:
    """Return the variables that matter to a service, one a line; of secrets only that they are set."""
    return [
        f"{name}={'(set)' if _SECRET.search(name) else value}"
        for name, value in sorted(environment.items())
        if name in READ or name.startswith(_SHOWN_PREFIXES)
    ]


def redacted(text: str) -> str:
    """Return a text without the names of this user and this machine, and without secrets in URLs."""
    home, host = str(Path.home()), socket.gethostname()
    text = re.sub(r"//[^/\s:@]+:[^/\s@]+@", "//(redacted)@", text)
    for name, shown in ((home, "~"), (host, "(host)"), (Path(home).name, "(user)")):
        if len(name) > 2:
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", shown, text)
    return text


def _packages() -> list[str]:
    return [f"{each.metadata['Name']} {each.version}" for each in metadata.distributions()]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        return f"({error.strerror})"
