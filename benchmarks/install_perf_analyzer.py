"""Puts Triton's perf_analyzer into this virtual environment, without root.

    .venv/bin/python benchmarks/install_perf_analyzer.py

No package of today installs it as it is. The binary of the wheel tritonclient 2.50.0 is the newest that runs
on glibc 2.35; it needs libb64, which is in Debian's package libb64-0d, and libcudart, which is in the wheel
nvidia-cuda-runtime-cu12 (no GPU is needed). The three files come to ``lib/perf_analyzer`` of the environment,
with a wrapper ``bin/perf_analyzer``. Run again, it finds them and does nothing.
"""

from __future__ import annotations

import ctypes.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEELS = {
    "tritonclient==2.50.0": "data/bin/perf_analyzer",
    "nvidia-cuda-runtime-cu12==12.9.79": "cuda_runtime/lib/libcudart.so.12",
}
DEBIAN_PACKAGE = "libb64-0d"
LIBB64 = "libb64.so.0d"


class InstallError(Exception):
    """perf_analyzer cannot be installed; the message says what to do."""


def main() -> None:
    """Install perf_analyzer unless it is there and runs."""
    environment = Path(sys.prefix)
    wrapper = environment / "bin" / "perf_analyzer"
    if wrapper.exists() and runs(wrapper):
        return
    directory = environment / "lib" / "perf_analyzer"
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for requirement, member in WHEELS.items():
                extract_from_wheel(requirement, member, directory, Path(scratch))
            provide_libb64(directory, Path(scratch))
    except InstallError as error:
        sys.exit(f"perf_analyzer: {error}")
    write_wrapper(wrapper, directory)
    if not runs(wrapper):
        sys.exit(f"perf_analyzer: {wrapper} does not start; run it to see why")
    print(f"installed {wrapper}")


def runs(wrapper: Path) -> bool:
    """Return whether the binary starts: the dynamic linker finds all it needs."""
    result = subprocess.run([wrapper, "--version"], capture_output=True, text=True, check=False)
    return "Perf Analyzer" in result.stdout + result.stderr


def extract_from_wheel(requirement: str, member: str, directory: Path, scratch: Path) -> None:
    """Download a wheel and copy the file whose path ends with ``member`` to ``directory``."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    checked([*pip, "--dest", str(scratch), requirement])
    (wheel,) = scratch.glob(requirement.partition("==")[0].replace("-", "_") + "-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(member))
        target = directory / Path(member).name
        with archive.open(name) as source, target.open("wb") as destination:
            shutil.copyfileobj(source, destination)
    target.chmod(0o755)


def provide_libb64(directory: Path, scratch: Path) -> None:
    """Unpack libb64 from its Debian package, unless the system has it."""
    if ctypes.util.find_library("b64") == LIBB64:
        return
    if shutil.which("apt-get") is None:
        raise InstallError(
            f"{LIBB64} is missing and this is no Debian; install libb64 with your package manager"
        )
    download_debian_package(scratch)
    (package,) = scratch.glob(f"{DEBIAN_PACKAGE}_*.deb")
    checked(["dpkg-deb", "-x", str(package), str(scratch / "unpacked")])
    (library,) = (scratch / "unpacked").rglob(LIBB64)
    shutil.copy2(library, directory / LIBB64)


def download_debian_package(scratch: Path) -> None:
    """Download the package; where apt has no lists yet, fetch them into a directory of our own."""
    download = ["apt-get", "download", DEBIAN_PACKAGE]
    if subprocess.run(download, cwd=scratch, capture_output=True, check=False).returncode == 0:
        return
    (scratch / "lists" / "partial").mkdir(parents=True)
    (scratch / "cache" / "archives" / "partial").mkdir(parents=True)
    ours = ["-o", f"Dir::State::Lists={scratch / 'lists'}", "-o", f"Dir::Cache={scratch / 'cache'}"]
    checked(["apt-get", *ours, "-o", "APT::Sandbox::User=", "update"])
    checked(["apt-get", *ours, "download", DEBIAN_PACKAGE], scratch)


def write_wrapper(wrapper: Path, directory: Path) -> None:
    """Write the script that runs the binary with its libraries."""
    wrapper.write_text(
        f'#!/bin/sh\nexport LD_LIBRARY_PATH="{directory}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"\n'
        f'exec "{directory}/perf_analyzer" "$@"\n'
    )
    wrapper.chmod(0o755)


def checked(command: list[str], directory: Path | None = None) -> None:
    """Run a command; raise InstallError with the end of what it printed if it fails."""
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last_lines = "\n".join(result.stderr.strip().splitlines()[-3:])
        raise InstallError(f"{' '.join(command)} failed: {last_lines}")


if __name__ == "__main__":
    main()
