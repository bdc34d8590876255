"""The run directory holds a whole model entry and disappears with everything that belongs to it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from ernie_cli.errors import CommandError
from ernie_cli.serve.preflight import check_temporary_directory, shared_memory_notice
from ernie_cli.triton import run_directory
from ernie_cli.triton.run_directory import (
    SHARED_MEMORY,
    new_run_directory,
    remove_abandoned,
    write_entry,
)
from ernie_wire.tensors import config_pbtxt

REPOSITORY = Path(__file__).parents[3]
RUN_UNTIL_KILLED = """
import sys
from pathlib import Path
from ernie_cli.serve.preflight import check_temporary_directory, shared_memory_notice
from ernie_cli.triton import run_directory
run_directory.PYTHON_FOLDERS = (sys.argv[1], "python_env_*")
with run_directory.new_run_directory() as run:
    run_directory.write_entry(run.model_repository / "ernie", {})
    with run.python_folder_found():
        (Path(sys.argv[1]) / "python_env_ours").mkdir()
    print(run.path, run.shared_memory_prefix, flush=True)
    sys.stdin.read()
"""


def test_an_entry_is_what_the_wire_contract_says() -> None:
    parameters = {"model": '/models/with "quotes"', "max_num_seqs": "8"}
    with new_run_directory() as run:
        entry = run.model_repository / "ernie"
        write_entry(entry, parameters)
        assert (entry / "config.pbtxt").read_text() == config_pbtxt("ernie", parameters)
        checked_in = REPOSITORY / "model_repository" / "ernie-tiny" / "1" / "model.py"
        assert (entry / "1" / "model.py").read_text() == checked_in.read_text()


def test_a_foreign_python_finds_the_stub_and_nothing_else() -> None:
    with new_run_directory() as run:
        path = run.write_python_path()
        code = "import ernie_stub, ernie_wire.tensors; print(ernie_wire.__file__)"
        result = subprocess.run(
            [sys.executable, "-S", "-c", code],
            env={"PYTHONPATH": str(path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(str(path))
        assert sorted(entry.name for entry in path.iterdir()) == ["ernie_stub", "ernie_wire"]


def test_leaving_removes_the_directory_and_the_shared_memory_regions() -> None:
    with new_run_directory() as run:
        write_entry(run.model_repository / "ernie", {})
        region = SHARED_MEMORY / f"{run.shared_memory_prefix}some-region"
        region.write_bytes(b"x")
        other = SHARED_MEMORY / f"other-{run.path.name}"
        other.write_bytes(b"x")
    try:
        assert not run.path.exists()
        assert not region.exists()
        assert other.exists()
    finally:
        other.unlink()


@pytest.mark.parametrize("num_others", [0, 1])
def test_the_folder_of_tritons_python_backend_goes_too_if_it_is_surely_ours(
    num_others: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "PYTHON_FOLDERS", (str(tmp_path), "python_env_*"))
    names = ["earlier", "ours", "other"]
    folders = {name: tmp_path / f"python_env_{name}" for name in names}
    folders["earlier"].mkdir()
    with new_run_directory() as run:
        with run.python_folder_found():
            for name in names[1 : 2 + num_others]:
                folders[name].mkdir()
        assert folders["ours"].exists()
    assert folders["earlier"].exists()
    assert folders["ours"].exists() == bool(num_others)


@pytest.mark.parametrize("kind", ["missing", "a file", "unwritable"])
def test_a_temporary_directory_that_cannot_be_used_is_told(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = (
        Path("/proc/self/fd") if kind == "unwritable" else tmp_path / kind
    )  # nobody can write there, root neither
    if kind == "a file":
        wanted.touch()
    monkeypatch.setattr(tempfile, "tempdir", None)  # found already
    monkeypatch.setenv("TMPDIR", str(wanted))
    with pytest.raises(CommandError, match=f"TMPDIR .*{wanted}"):
        check_temporary_directory()


@pytest.mark.parametrize("wanted", ["", ".", "{}", "{}/."])
def test_a_temporary_directory_that_can_be_used_is_not_refused(
    wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", wanted.format(tmp_path))
    check_temporary_directory()


def test_what_a_killed_serve_left_is_removed_by_the_next_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    not_ours = tmp_path / "ernie-triton-notes"
    not_ours.mkdir()
    with (
        subprocess.Popen(
            [sys.executable, "-c", RUN_UNTIL_KILLED, str(tmp_path)],
            env={"TMPDIR": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as killed,
        new_run_directory() as alive,
    ):
        assert killed.stdout is not None
        left, prefix = killed.stdout.readline().split()
        region = SHARED_MEMORY / f"{prefix}some-region"
        region.write_bytes(b"x")
        remove_abandoned()
        assert Path(left).is_dir(), "its process lives"
        killed.kill()
        killed.wait()
        remove_abandoned()
        assert {path.name for path in tmp_path.iterdir()} == {not_ours.name, alive.path.name}
        assert not region.exists()


@pytest.mark.parametrize(
    ("free_mib", "modalities", "is_told"), [(60, 2, True), (60, 1, False), (300, 2, False)]
)
def test_little_shared_memory_is_told_where_a_model_sees(
    monkeypatch: pytest.MonkeyPatch, free_mib: int, modalities: int, is_told: bool
) -> None:
    usage = SimpleNamespace(free=free_mib << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage if path == SHARED_MEMORY else None)
    lines = list(shared_memory_notice(("text", "image")[:modalities]))
    assert ["60 MiB free" in line and "--shm-size" in line for line in lines] == [True] * is_told
