"""What other users of the machine reach of a running ``serve``: the API, and nothing else."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from support import http
from support.free_ports import free_port
from support.paths import DENSE
from support.serving import FLAGS, Serving

NOBODY = 65534
OWNED_CODE = "raise RuntimeError('somebody else runs code here')"
ATTACK = {
    "parameters": {
        "config": json.dumps({"name": "x", "backend": "python"}),
        "file:1/model.py": base64.b64encode(OWNED_CODE.encode()).decode(),
    }
}
TRY_AS = """
import json, os, socket, sys
uid, tries = int(sys.argv[1]), json.loads(sys.argv[2])
os.setgroups([]), os.setgid(uid), os.setuid(uid)

def connect(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)

def read(path):
    with open(path, "rb") as file:
        file.read(1)

def write(path):
    os.close(os.open(path, os.O_WRONLY))

does = {"connect": connect, "list": os.listdir, "read": read, "write": write}
done = []
for verb, path in tries:
    try:
        does[verb](path)
    except PermissionError:
        continue
    done.append([verb, path])
print(json.dumps(done))
"""


def processes(serving: Serving) -> list[psutil.Process]:
    return [serving.process, *serving.process.children(recursive=True)]


def listening(serving: Serving) -> set[int]:
    """Return the TCP ports on which some process of the service listens."""
    connections = [each for process in processes(serving) for each in process.net_connections("tcp")]
    return {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}


def created(serving: Serving) -> set[Path]:
    """Return what the service has made outside its private directory: files, directories and shared memory."""
    run = serving.run_directory
    found = {run, *serving.temporary.iterdir(), *Path("/dev/shm").glob(f"{run.name}-*")}
    python_folder = run / "python_env"  # of Triton's Python backend, which takes no directory but /tmp
    found |= {python_folder.readlink()} if python_folder.is_symlink() else set()
    for process in processes(serving):
        writing = [file.path for file in process.open_files() if file.mode != "r"]
        mapped = [entry.path for entry in process.memory_maps() if entry.path.startswith("/dev/shm/")]
        found |= {Path(path) for path in [*writing, *mapped] if Path(path).exists()}
    return found


def is_private(path: Path) -> bool:
    """Whether the mode of a path, or of a directory on the way to it, keeps every other user out."""
    return any(not each.stat().st_mode & 0o077 for each in (path, *path.parents))


def can_do(uid: int, tries: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return which of some tries succeed for a user. Only root may ask."""
    command = [sys.executable, "-I", "-c", TRY_AS, str(uid), json.dumps(tries)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [(verb, path) for verb, path in json.loads(done.stdout)]


def headers_with_the_key(serving: Serving) -> list[bytes]:
    """Return what somebody may try who has read Triton's command line: the header that it names."""
    (triton,) = serving.descendants("--http-restricted-api")
    (given,) = (each for each in triton.cmdline() if each.startswith("--http-restricted-api"))
    name, _, value = given.rpartition(":")[2].partition("=")
    before, after = value.encode().split(b"\n")
    line_ends = (b"\n", b"\r\n", b"\r", b"\n ", b"\r\n ", b"\n\t", b"\r\n\t", b"\\n", b"%0a", b" ", b"\0", b"")
    return [name.encode() + b": " + before + line_end + after for line_end in line_ends]


def status_of(port: int, header: bytes) -> bytes:
    """Return the status of a request for Triton's model repository, or nothing if it is not answered."""
    head = b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(head + header + b"\r\n\r\n")
        answer = client.recv(4096)
    return answer.split(b" ")[1] if answer else b""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("key-of-the-file\n")
    flags = ("--workers", "2", "--api-key-file", str(keys))
    running = Serving("serve", *FLAGS, *flags, environment={"FD_API_KEY": "key-of-the-environment"})
    running.temporary.chmod(0o755)  # as /tmp: what lies in it is guarded by its own mode only
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.close()


def test_no_port_is_open_but_that_of_the_api(serving: Serving) -> None:
    port = urlsplit(serving.url).port
    assert listening(serving) == {port}
    answer = http.post(f"{serving.url}/v2/repository/models/x/load", json=ATTACK)
    assert answer.status_code == 404


def test_keys_are_asked_for_and_stand_in_no_command_line_nor_in_the_log(serving: Serving) -> None:
    with httpx.Client(base_url=f"{serving.url}/v1", trust_env=False, timeout=60) as api:
        assert api.get("/models").status_code == 401
        for key in ("key-of-the-file", "key-of-the-environment"):
            assert api.get("/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    seen = [*serving.output, *(word for process in processes(serving) for word in process.cmdline())]
    assert [line for line in seen if "key-of-the" in line] == []


def test_all_that_is_made_is_for_its_owner_only(serving: Serving) -> None:
    made = created(serving)
    assert any(serving.run_directory.glob("ernie-frontend-metrics-*"))
    assert any(path.parent == Path("/dev/shm") for path in made)
    assert [path for path in made if not is_private(path)] == []


if os.geteuid() == 0:

    def test_another_user_gets_in_nowhere(serving: Serving) -> None:
        run = serving.run_directory
        tries = [("connect", f"{run}/triton.sock:0"), ("list", str(run)), ("read", f"{run}/serve.lock")]
        for path in created(serving):
            tries += [("list", str(path))] if path.is_dir() else [("read", str(path)), ("write", str(path))]
        tries += [("read", f"/proc/{process.pid}/environ") for process in processes(serving)]
        assert can_do(0, tries) == tries, "each try succeeds for whoever may"
        assert can_do(NOBODY, tries) == []


@pytest.mark.full
def test_tritons_http_port_takes_inferences_and_neither_models_nor_memory() -> None:
    http_port, metrics_port = free_port(), free_port()
    ports = ("--triton-http-port", str(http_port), "--triton-metrics-port", str(metrics_port))
    running = Serving("serve", *FLAGS, *ports)
    try:
        api = urlsplit(running.wait_until_ready()).port
        assert listening(running) == {api, http_port, metrics_port}
        assert any(f"port {http_port}" in line for line in running.output)
        with httpx.Client(base_url=f"http://127.0.0.1:{http_port}", trust_env=False, timeout=60) as triton:
            inference = triton.post(f"/v2/models/{DENSE.name}/generate", json={"input_ids": [1, 2, 3]})
            assert inference.status_code == 200, inference.text
            for path in (
                *("repository/index", "repository/models/x/load", f"repository/models/{DENSE.name}/unload"),
                *("systemsharedmemory/region/x/register", "trace/setting", "logging"),
            ):
                plain = {"content-type": "text/plain"}  # what a web page may send without asking
                answer = triton.post(f"/v2/{path}", content=json.dumps(ATTACK), headers=plain)
                assert answer.status_code == 403, path
        for header in headers_with_the_key(running):
            assert status_of(http_port, header) in (b"403", b""), header
        metrics = http.get(f"http://127.0.0.1:{metrics_port}/metrics")
        assert "nv_inference_count" in metrics.text
    finally:
        running.close()
