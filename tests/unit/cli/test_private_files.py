"""What a process and its children create is readable by its owner only, even if it is told to be otherwise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHILD = """
import os, sys
with open("plain", "w"), open("opened", "w") as opened, open("narrowed", "w") as narrowed:
    os.fchmod(opened.fileno(), 0o644)
    os.fchmod(narrowed.fileno(), 0o400)
os.mkdir("folder")
"""
PARENT = f"""
import os, platform, sys
from ernie_cli.processes.private_files import keep_files_private
if len(sys.argv) > 1:
    platform.machine = lambda: sys.argv[1]
keep_files_private()
os.execv(sys.executable, [sys.executable, "-c", {CHILD!r}])
"""


def modes_in(directory: Path, *arguments: str) -> tuple[dict[str, str], str]:
    """Return the modes of what a program creates that an exec has started, and what was written to stderr."""
    command = [sys.executable, "-c", PARENT, *arguments]
    done = subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, umask=0o022)
    return {path.name: f"{path.stat().st_mode & 0o777:o}" for path in directory.iterdir()}, done.stderr


def test_neither_the_umask_nor_fchmod_opens_a_file_to_others(tmp_path: Path) -> None:
    modes, said = modes_in(tmp_path)
    assert modes == {"plain": "600", "opened": "600", "narrowed": "400", "folder": "700"}
    assert said == ""


def test_where_there_is_no_filter_the_hole_is_told(tmp_path: Path) -> None:
    modes, said = modes_in(tmp_path, "riscv64")
    assert modes == {"plain": "600", "opened": "644", "narrowed": "400", "folder": "700"}
    assert "riscv64" in said
