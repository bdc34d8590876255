"""Checks what pip cannot install: the interpreter and the compiler. Used by ``make setup``.

    python3 .ci/check_prerequisites.py

Prints every thing that is missing with its Debian package, and exits with status 1. It runs on Python 3.7 too,
because the wrong version is one of the things it reports.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def missing() -> Iterator[tuple[str, str]]:
    """Yield (what is missing, Debian packages that bring it)."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        yield (
            f"Python 3.10 to 3.12; {sys.executable} is {platform.python_version()}. "
            "Name another one: make setup PYTHON=/path/to/python3.11",
            "python3.11",
        )
        return
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        yield "Linux on x86-64: the tritonserver of nvidia-pytriton is built for nothing else", ""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        yield "the module venv with ensurepip", PYTHON + "-venv"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        yield f"the Python headers ({header})", f"lib{PYTHON}-dev"
    if not has_shared_library():
        yield "a shared libpython (a Python built with --enable-shared)", "lib" + PYTHON
    for program in ("g++", "make"):
        if shutil.which(program) is None:
            yield "the program " + program, program


def has_shared_library() -> bool:
    """Return whether this interpreter's libpython is a shared library that is there."""
    directory = Path(sysconfig.get_config_var("LIBDIR") or "")
    name = sysconfig.get_config_var("INSTSONAME") or ""
    folders = (directory, directory / (sysconfig.get_config_var("MULTIARCH") or ""))
    is_shared = bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))
    return is_shared and any((folder / name).exists() for folder in folders)


def main() -> None:
    """Report what is missing."""
    found = list(missing())
    for what, _ in found:
        sys.stderr.write(f"missing: {what}\n")
    packages = " ".join(package for _, package in found if package)
    if packages:
        sys.stderr.write(f"on Debian or Ubuntu: sudo apt-get install {packages}\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
