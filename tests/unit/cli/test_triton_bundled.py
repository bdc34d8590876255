"""The launcher finds the wheel's parts, prepares the backend once, and is told from another tritonserver."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ernie_cli.errors import CommandError
from ernie_cli.triton import bundled
from ernie_cli.triton.bundled import BundledServer


@pytest.fixture
def server(tmp_path: Path) -> BundledServer:
    """A wheel's tree with empty files."""
    backend = tmp_path / "wheel" / "python"
    (backend / "__pycache__").mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        (backend / name).touch()
    stub = tmp_path / "wheel" / "triton_python_backend_stub"
    stub.touch(mode=0o755)
    libraries = tmp_path / "nvidia_pytriton.libs"
    libraries.mkdir()
    return BundledServer(tmp_path / "wheel" / "tritonserver", backend, stub, libraries, "0.7.0")


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    return tmp_path / "venv"


def test_the_backend_directory_is_whole_and_inside_the_environment(server: BundledServer, prefix: Path) -> None:
    directory = bundled.backend_directory(server)
    assert directory.is_relative_to(prefix)
    names = {path.name for path in (directory / "python").iterdir()}
    assert names == {"libtriton_python.so", "triton_python_backend_utils.py", "triton_python_backend_stub"}
    assert (directory / "python" / "triton_python_backend_stub").stat().st_mode & 0o111


def test_many_callers_at_once_find_one_whole_directory(server: BundledServer, prefix: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        directories = set(pool.map(lambda _: bundled.backend_directory(server), range(16)))
    assert len(directories) == 1
    (directory,) = directories
    assert len(list((directory / "python").iterdir())) == 3
    assert list(directory.parent.iterdir()) == [directory]


def test_the_search_paths_begin_with_ours_and_keep_what_was_there(
    server: BundledServer, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled, "shared_libpython_directory", lambda: Path("/libpython"))
    environment = bundled.server_environment(
        server, {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/theirs", "HOME": "/home"}
    )
    assert environment["LD_LIBRARY_PATH"] == f"{server.libraries}:/libpython:/theirs"
    assert environment["PATH"] == f"{prefix / 'bin'}:/usr/bin"
    assert environment["HOME"] == "/home"


def test_an_empty_library_path_gets_no_empty_entry(
    server: BundledServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled, "shared_libpython_directory", lambda: Path("/libpython"))
    environment = bundled.server_environment(server, {})
    assert environment["LD_LIBRARY_PATH"] == f"{server.libraries}:/libpython"


@pytest.mark.parametrize("given", ["--backend-directory=/mine", "--backend-directory"])
def test_a_given_backend_directory_is_kept(
    server: BundledServer, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setattr(bundled, "find_bundled_server", lambda: server)
    monkeypatch.setattr(bundled, "shared_libpython_directory", lambda: Path("/libpython"))
    command, _ = bundled.bundled_command([given, "--log-info=false"], {})
    assert command == [str(server.binary), given, "--log-info=false"]


def test_without_the_wheel_the_error_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CommandError, match="nvidia-pytriton"):
        bundled.find_bundled_server()


def test_a_static_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", {"LIBDIR": "/usr/lib", "Py_ENABLE_SHARED": 0}.get)
    with pytest.raises(CommandError, match="libpython"):
        bundled.shared_libpython_directory()


def test_this_python_has_its_library_where_it_says() -> None:
    directory = bundled.shared_libpython_directory()
    assert (directory / str(sysconfig.get_config_var("INSTSONAME"))).exists()


def test_a_foreign_server_behind_our_launcher_is_found(tmp_path: Path) -> None:
    ours, theirs, empty = (tmp_path / name for name in ("ours", "theirs", "empty"))
    for directory in (ours, theirs, empty):
        directory.mkdir()
    launcher = bundled.write_launcher(ours)
    foreign = theirs / "tritonserver"
    foreign.write_bytes(b"\x7fELF")
    foreign.chmod(0o755)
    assert launcher.stat().st_mode & 0o111
    assert bundled.find_installed_server(f"{empty}:{ours}:{theirs}") == foreign
    assert bundled.find_installed_server(f"{ours}:{empty}:") is None
