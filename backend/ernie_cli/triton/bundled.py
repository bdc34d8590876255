"""Starts the tritonserver that the wheel nvidia-pytriton bundles, as if it were installed on this machine.

The bundled binary needs four things that an installed one has by itself:
    a backend directory   with the python backend and the stub built for this interpreter's X.Y;
    LD_LIBRARY_PATH       with the wheel's libraries, and with the interpreter's libpython: without it the
                          stub silently runs another libpython of the same version, or none;
    PATH                  with this environment's bin first, so that the stub's packages are ours;
    numpy < 2             because the 2.51 stub dies on its first BYTES tensor with numpy 2.

``.venv/bin/tritonserver`` calls ``main``, which passes every argument on and becomes the server, whose files
only its user can read.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ernie_cli.errors import CommandError
from ernie_cli.processes.private_files import keep_files_private

WHEEL = "nvidia-pytriton"
MARK = "ernie_cli.triton.bundled"
"""By this the project's launcher script, which runs this module, is told from another tritonserver."""


@dataclass(frozen=True)
class BundledServer:
    """The files of the wheel that a server is made of.

    Attributes:
        binary: the tritonserver executable.
        python_backend: folder of Triton's python backend, without a stub.
        stub: the stub executable built for this interpreter's X.Y.
        libraries: folder of the shared libraries the wheel brings.
        version: version of the wheel.
    """

    binary: Path
    python_backend: Path
    stub: Path
    libraries: Path
    version: str


def find_bundled_server() -> BundledServer:
    """Return the bundled server's files.

    Raises:
        CommandError: the wheel is absent, damaged, or has no stub for this Python.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise CommandError(
            f"no tritonserver: the package {WHEEL} is not installed for {sys.executable} and there is no other"
            ' tritonserver on PATH; run "make setup", or "pip install ernie-triton[triton]"'
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    root = package / "tritonserver"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    server = BundledServer(
        binary=root / "bin" / "tritonserver",
        python_backend=root / "backends" / "python",
        stub=root / "python_backend_stubs" / python / "triton_python_backend_stub",
        libraries=package.parent / "nvidia_pytriton.libs",
        version=importlib.metadata.version(WHEEL),
    )
    for path in (server.binary, server.python_backend, server.stub, server.libraries):
        if not path.exists():
            raise CommandError(f"{WHEEL} {server.version} has no {path}; Python {python} may be too new for it")
    return server


def shared_libpython_directory() -> Path:
    """Return the folder of this interpreter's libpython.

    Raises:
        CommandError: this Python was built without a shared library, so Triton's stub cannot embed it.
    """
    directory = Path(sysconfig.get_config_var("LIBDIR") or "")
    name = sysconfig.get_config_var("INSTSONAME") or ""
    candidates = [directory, directory / str(sysconfig.get_config_var("MULTIARCH") or "")]
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        for candidate in candidates:
            if name and (candidate / name).exists():
                return candidate
    raise CommandError(
        f"{sys.executable} has no shared libpython ({name or 'built without one'}, looked in {directory});"
        " Triton's python backend embeds one: install libpython3-dev, or build Python with --enable-shared"
    )


def backend_directory(server: BundledServer) -> Path:
    """Return the prepared backend directory inside this environment; made by the first caller.

    It is filled under another name and then renamed, so two callers at once both find it complete.

    Raises:
        CommandError: the environment cannot be written to.
    """
    version = f"{server.version}-python{sys.version_info.major}.{sys.version_info.minor}"
    target = Path(sys.prefix) / "lib" / "ernie-triton" / f"backends-{version}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise CommandError(
            f"cannot prepare {target}: {error}; run once as a user who may write there"
        ) from None
    try:
        shutil.copytree(server.python_backend, staging / "python", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(server.stub, staging / "python" / server.stub.name)
        staging.chmod(0o755)
        staging.rename(target)
    except OSError:
        if not target.is_dir():  # if it is, another caller was faster
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def server_environment(server: BundledServer, environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` with the search paths that the bundled server and its stub need."""
    inherited = environment.get("LD_LIBRARY_PATH")
    libraries = [str(server.libraries), str(shared_libpython_directory()), *([inherited] if inherited else [])]
    path = f"{sys.prefix}/bin:{environment.get('PATH', os.defpath)}"
    return {**environment, "LD_LIBRARY_PATH": ":".join(libraries), "PATH": path}


def bundled_command(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that start the bundled server.

    Args:
        arguments: tritonserver's own arguments; ``--backend-directory`` is added unless given.
        environment: what to start from; default ``os.environ``.

    Raises:
        CommandError: the wheel or the shared libpython is missing, or the environment is read-only.
    """
    server = find_bundled_server()
    command = [str(server.binary), *arguments]
    if not any(argument.split("=")[0] == "--backend-directory" for argument in arguments):
        command.append(f"--backend-directory={backend_directory(server)}")
    return command, server_environment(server, os.environ if environment is None else environment)


def find_installed_server(search_path: str | None = None) -> Path | None:
    """Return the first tritonserver on PATH that is not the project's launcher, or None."""
    for directory in (os.environ.get("PATH", "") if search_path is None else search_path).split(":"):
        found = shutil.which("tritonserver", path=directory) if directory else None
        if found is not None and not _is_launcher(Path(found)):
            return Path(found)
    return None


def _is_launcher(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(4096)
    except OSError:
        return False


def write_launcher(directory: Path) -> Path:
    """Write the script ``tritonserver`` into ``directory``; returns its path."""
    script = directory / "tritonserver"
    # /bin/sh, not a Python shebang: the path of an environment may be longer than the kernel allows there.
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {MARK} "$@"\n')
    script.chmod(0o755)
    return script


def main() -> None:
    """Become the bundled tritonserver with this process's arguments."""
    try:
        command, environment = bundled_command(sys.argv[1:])
    except CommandError as error:
        sys.exit(f"tritonserver: {error}")
    keep_files_private()
    os.execve(command[0], command, environment)  # noqa: S606 - becoming the server is the point


if __name__ == "__main__":
    main()
