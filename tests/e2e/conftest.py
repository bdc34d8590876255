"""The fixture that starts real tritonservers; at most one for each test module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.triton_server import TritonServer


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
