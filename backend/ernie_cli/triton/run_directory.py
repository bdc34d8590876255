"""The run directory of one ``serve``: a temporary model repository with the served entry.

    <temporary>/model_repository/<entry>/config.pbtxt   generated from ernie_wire.tensors
    <temporary>/model_repository/<entry>/1/model.py     imports ernie_stub
    <temporary>/python/ernie_stub, ernie_wire           links, for a tritonserver that has its own Python
    <temporary>/log                                     output of the processes, when it is not on the screen
    <temporary>/triton.sock:0                           Triton's gRPC; the directory's mode, 0700, guards it
    <temporary>/serve.lock                              locked as long as this process lives
    <temporary>/python_env                              link to the folder that Triton's Python backend made

It also removes what Triton leaves elsewhere when it is killed: shared memory regions, which have a prefix of
their own, and the folder of Triton's Python backend, whose place in /tmp cannot be chosen. What a killed
``serve`` leaves is removed by the next one, which finds the lock released by the kernel.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ernie_stub
import ernie_wire
from ernie_cli.errors import CommandError
from ernie_wire.tensors import config_pbtxt

PREFIX = "ernie-triton-"
LOCK = "serve.lock"
_SOCKET = "triton.sock:0"
_PYTHON_FOLDER = "python_env"
_MAX_SOCKET_BYTES = 107  # unix(7): 108 with the zero byte at the end
_RANDOM_CHARACTERS = 8  # of tempfile.mkdtemp
PYTHON_FOLDERS = ("/tmp", "python_env_*")  # noqa: S108 - fixed in Triton's Python backend
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory
ENOUGH_SHARED_MEMORY = 256 << 20
"""Triton's stub takes 1 MiB for each model and grows with the tensors in flight: files of 128 MiB at most."""
MODEL_PY = '''"""The entry's model: Triton imports this file; the code is in the package ernie_stub."""

from ernie_stub.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def entry_name(public_name: str) -> str:
    """Return the Triton entry's name for a model's public name, which may be a hub id with a slash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", public_name).strip(".-") or "model"


def check_socket_path() -> None:
    """Check that a run directory's path can be that of a Unix socket, for the kernel and for gRPC.

    Raises:
        CommandError: it cannot, because of the temporary directory.
    """
    temporary = tempfile.gettempdir()
    limit = _MAX_SOCKET_BYTES - len(f"/{PREFIX}{'x' * _RANDOM_CHARACTERS}/{_SOCKET}")
    if len(os.fsencode(temporary)) > limit or "," in temporary:
        raise CommandError(
            f"Triton's Unix socket cannot be in the temporary directory {temporary}: the path has more than"
            f" {limit} bytes or a comma; set TMPDIR to another one, or open a port with --triton-grpc-port"
        )


def write_entry(entry: Path, parameters: Mapping[str, str]) -> None:
    """Write an entry of a model repository, named as its directory, with its parameters."""
    (entry / "1").mkdir(parents=True, exist_ok=True)
    (entry / "config.pbtxt").write_text(config_pbtxt(entry.name, dict(parameters)), encoding="utf-8")
    (entry / "1" / "model.py").write_text(MODEL_PY, encoding="utf-8")


@contextlib.contextmanager
def new_run_directory() -> Iterator[RunDirectory]:
    """Make a run directory, lock it, and remove it at the end."""
    run = RunDirectory(Path(tempfile.mkdtemp(prefix=PREFIX)))
    unlocked = run.path / "unlocked"  # renamed once it is locked: serve.lock is never found unlocked
    unlocked.touch()
    lock = _lock(unlocked)
    unlocked.rename(run.path / LOCK)
    try:
        yield run
    finally:
        run.remove()
        if lock is not None:
            os.close(lock)


def remove_abandoned() -> None:
    """Remove the run directories of this user whose process is gone, and what belongs to them."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another serve removes it too, or it is another user's
            if path.lstat().st_uid == os.geteuid() and (lock := _lock(path / LOCK)) is not None:
                RunDirectory(path).remove()
                os.close(lock)


@dataclass(frozen=True)
class RunDirectory:
    """The files of a run directory, and what belongs to it elsewhere."""

    path: Path

    @property
    def triton_socket(self) -> Path:
        """Triton's Unix socket; with a port, which Triton appends to every address."""
        return self.path / _SOCKET

    @property
    def log(self) -> Path:
        """The file for the output of the processes."""
        return self.path / "log"

    @property
    def model_repository(self) -> Path:
        """The model repository."""
        return self.path / "model_repository"

    @property
    def shared_memory_prefix(self) -> str:
        """With which the names of Triton's shared memory regions begin."""
        return f"{self.path.name}-{os.getpid()}-"

    def write_python_path(self) -> Path:
        """Link the stub's packages, and nothing else of this environment; returns what goes on PYTHONPATH."""
        directory = self.path / "python"
        directory.mkdir()
        for package in (ernie_stub, ernie_wire):
            source = Path(package.__path__[0])
            (directory / source.name).symlink_to(source)
        return directory

    @contextlib.contextmanager
    def python_folder_found(self) -> Iterator[None]:
        """Find the folder that Triton's Python backend makes for the first load, unless others make one too."""
        before = _python_folders()
        try:
            yield
        finally:
            made = _python_folders() - before
            link = self.path / _PYTHON_FOLDER
            if len(made) == 1 and not link.is_symlink():
                link.symlink_to(made.pop())

    def remove_shared_memory(self) -> None:
        """Remove the regions of a stub that was killed, and of its side of Triton."""
        for region in SHARED_MEMORY.glob(f"{self.path.name}-*"):
            region.unlink(missing_ok=True)

    def remove_leftovers_of_triton(self) -> None:
        """Remove what a killed Triton has left: the next one makes its own."""
        link = self.path / _PYTHON_FOLDER
        if link.is_symlink():
            shutil.rmtree(link.readlink(), ignore_errors=True)
            link.unlink()
        self.remove_shared_memory()
        self.triton_socket.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove it, and what a killed Triton has left."""
        self.remove_leftovers_of_triton()
        shutil.rmtree(self.path, ignore_errors=True)


def _lock(path: Path) -> int | None:
    """Return a file descriptor that holds the only lock of a file; None if another process holds it.

    Raises:
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _python_folders() -> set[Path]:
    folder, pattern = PYTHON_FOLDERS
    return set(Path(folder).glob(pattern))
