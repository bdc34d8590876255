"""Real tritonservers: two for all modules that leave them as they are, and what starts one for a module."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.frontend_process import frontend_process
from support.paths import DENSE
from support.triton_server import EMBEDDED, TritonServer, add_entry


@pytest.fixture(scope="session")
def dense_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A tritonserver with the dense checkpoint as ``ernie-tiny``."""
    repository = tmp_path_factory.mktemp("repository")
    add_entry(repository, "ernie-tiny", model=str(DENSE), dtype="float32")
    server = TritonServer(repository, tmp_path_factory.mktemp("triton") / "server.log")
    try:
        server.await_ready()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def embedded_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a frontend over a tritonserver that has the embedded model in bfloat16 and as wint8."""
    repository = tmp_path_factory.mktemp("repository")
    add_entry(repository, "ernie-tiny", model=str(EMBEDDED / "weights"), dtype="bfloat16")
    add_entry(repository, "ernie-tiny-wint8", model=str(EMBEDDED / "weights"), quantization="wint8")
    logs = tmp_path_factory.mktemp("logs")
    server = TritonServer(repository, logs / "server.log")
    try:
        server.await_ready()
        command = [sys.executable, "-m", "ernie_frontend"]
        with frontend_process(command, server.grpc_port, logs / "frontend.log") as client:
            yield str(client.base_url).rstrip("/")
    finally:
        server.close()


@pytest.fixture(scope="module")
def start_tritonserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., TritonServer]]:
    """Start a tritonserver with a model repository, and further arguments, and wait until it is ready.

    It is ended after the module.
    """
    servers: list[TritonServer] = []

    def start(repository: Path, *arguments: str) -> TritonServer:
        server = TritonServer(repository, tmp_path_factory.mktemp("triton") / "server.log", *arguments)
        servers.append(server)
        server.await_ready()
        return server

    yield start
    for server in servers:
        server.close()
