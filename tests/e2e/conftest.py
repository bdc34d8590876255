"""Real tritonservers: one for all modules that leave it as it is, and what starts one for a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.paths import DENSE
from support.triton_server import TritonServer, add_entry


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
