"""A server with the embedded model, one with PaddleOCR-VL, and a proxy that notices what is sent elsewhere."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator

import pytest

from support.serving import Serving
from support.triton_server import EMBEDDED
from support.vision_model import vision_model


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    serving = Serving("serve", "--model", str(EMBEDDED / "weights"), "--port", "0", "--host", "127.0.0.1")
    try:
        yield serving.wait_until_ready()
    finally:
        serving.close()


@pytest.fixture(scope="session")
def ocr_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a small PaddleOCR-VL of random weights, with the flags of FastDeploy's table."""
    directory = vision_model(tmp_path_factory.mktemp("models") / "PaddleOCR-VL", "paddleocr-vl")
    flags = ("--max-model-len", "2048", "--max-num-seqs", "256")
    serving = Serving("serve", "--model", str(directory), "--port", "0", "--host", "127.0.0.1", *flags)
    try:
        yield serving.wait_until_ready()
    finally:
        serving.close()


class RefusingProxy(socketserver.ThreadingTCPServer):
    """A proxy that keeps the first line of every request and ends the connection."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), _Refusal)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Refusal(socketserver.StreamRequestHandler):
    server: RefusingProxy

    def handle(self) -> None:
        self.server.requests.append(self.rfile.readline(1000).decode(errors="replace").strip())


@pytest.fixture
def proxy() -> Iterator[RefusingProxy]:
    with RefusingProxy() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()
