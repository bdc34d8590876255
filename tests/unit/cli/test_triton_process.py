"""The command line of a server: what it opens, and what the user is told of that."""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path

import grpc
import pytest

from ernie_cli.errors import CommandError
from ernie_cli.triton.process import TritonPorts, triton_command, triton_lines, triton_url
from ernie_cli.triton.run_directory import RunDirectory, check_socket_path, new_run_directory

INSTALLED = Path("/opt/tritonserver/bin/tritonserver")


def arguments(run: RunDirectory, ports: TritonPorts) -> set[str]:
    """Return what of the command line opens or closes something."""
    command, _ = triton_command(run, ports, INSTALLED)
    words = ("allow-http", "allow-metrics", "port", "address", "restricted")
    return {argument for argument in command if any(word in argument.partition("=")[0] for word in words)}


def test_an_installed_server_gets_the_stub_on_its_python_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    with new_run_directory() as run:
        command, environment = triton_command(run, TritonPorts(), INSTALLED)
        assert environment["PYTHONPATH"] == f"{run.path / 'python'}:/theirs"
    assert command[0] == str(INSTALLED)
    assert "--model-control-mode=explicit" in command
    assert f"--backend-config=python,shm-region-prefix-name={run.shared_memory_prefix}" in command


def test_without_ports_there_is_a_socket_and_nothing_else() -> None:
    with new_run_directory() as run:
        url = triton_url(run, TritonPorts())
        assert url == f"unix:{run.path}/triton.sock:0"
        assert f"{run.path}/triton.sock:0" == str(run.triton_socket)
        assert arguments(run, TritonPorts()) == {
            f"--grpc-address=unix:{run.path}/triton.sock",
            "--grpc-port=0",
            "--allow-http=false",
            "--allow-metrics=false",
        }


def test_ports_that_are_given_are_opened_on_the_loopback_interface_only() -> None:
    with new_run_directory() as run:
        ports = TritonPorts(http=1, grpc=2, metrics=3)
        assert triton_url(run, ports) == "127.0.0.1:2"
        given = arguments(run, ports)
        (restricted,) = (argument for argument in given if "restricted" in argument)
        assert given - {restricted} == {
            *("--http-address=127.0.0.1", "--http-port=1"),
            *("--grpc-address=127.0.0.1", "--grpc-port=2"),
            *("--metrics-address=127.0.0.1", "--metrics-port=3"),
        }


@pytest.mark.parametrize("folder", ["with blank", "100%", "a#b?c", "中文", "a:1"])
def test_the_address_is_written_as_grpc_reads_it(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / folder).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", f"{temporary}/{folder}")
        check_socket_path()
        with new_run_directory() as run:
            asyncio.run(ask_over(run))


async def ask_over(run: RunDirectory) -> None:
    """Have a server listen at a run directory's socket by its address, and a client reach it."""
    server = grpc.aio.server()
    server.add_insecure_port(triton_url(run, TritonPorts()))
    await server.start()
    assert run.triton_socket.is_socket()
    async with grpc.aio.insecure_channel(triton_url(run, TritonPorts())) as channel:
        await asyncio.wait_for(channel.channel_ready(), 30)
    await server.stop(None)


@pytest.mark.parametrize("folder", ["x" * 90, "中" * 30, "a,b"])
def test_a_temporary_directory_that_holds_no_socket_is_told_with_the_way_out(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", f"/tmp/{folder}")
    with pytest.raises(CommandError, match=r"TMPDIR .*--triton-grpc-port"):
        check_socket_path()


def lines(
    version: str, ports: TritonPorts, installed: Path | None = INSTALLED, *, has_keys: bool = False
) -> str:
    return "\n".join(triton_lines(version, installed, ports, has_keys=has_keys))


@pytest.mark.parametrize(
    ("version", "is_old"),
    [
        ("2.51.0", True),
        ("2.59.0", True),
        ("2.9.1", True),
        ("2.59.1", False),
        ("2.73.0dev", False),
        ("3.0", False),
    ],
)
def test_a_version_with_published_vulnerabilities_is_named(version: str, is_old: bool) -> None:
    (line,) = lines(version, TritonPorts()).splitlines()
    assert line.startswith(f"Triton: {INSTALLED}, version {version}")
    assert ("vulnerabilities" in line) == is_old
    notices = lines(version, TritonPorts(metrics=3)).splitlines()[1:]
    assert any("vulnerabilities" in notice for notice in notices) == is_old


def test_a_port_is_told_with_what_it_opens_to_whom() -> None:
    ports = TritonPorts(http=1, grpc=2, metrics=3)
    ours, grpc, http = lines("2.70.0", ports, None, has_keys=True).splitlines()
    assert re.search(r"2\.70\.0; .*port 1 \(http\), .*port 2 \(grpc\), .*port 3 \(metrics\)", ours)
    assert re.match("Notice: --triton-grpc-port: .*load models .*port 2,.*API key", grpc)
    assert re.match("Notice: --triton-http-port: .*use the model .*port 1;.*API key", http)
    assert "API key" not in lines("2.70.0", TritonPorts(http=1, grpc=2))
