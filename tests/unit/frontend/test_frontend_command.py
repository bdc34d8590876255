"""The command: clear one-line errors before anything starts, and an orderly end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ernie_frontend.__main__ import _warn_of_triton, run
from ernie_frontend.arguments import UsageError
from ernie_frontend.cors import Cors
from ernie_frontend.settings import MediaRules, Settings
from support import http

COMMAND = [sys.executable, "-m", "ernie_frontend"]


def refuse(*arguments: str) -> str:
    """Run a command that must fail at once, and return its only line."""
    with pytest.raises(UsageError) as raised:
        run(arguments)
    [line] = str(raised.value).splitlines()
    return line


def test_a_triton_that_is_not_there_is_told_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = tmp_path / "there"
    with socket.socket(socket.AF_UNIX) as listener, socket.create_server(("127.0.0.1", 0)) as other:
        listener.bind(str(there))
        listener.listen()
        open_port = f"127.0.0.1:{other.getsockname()[1]}"
        _warn_of_triton((f"unix:{there}", f"unix:{tmp_path}/nowhere", open_port))
    (message,) = caplog.messages
    assert f"unix:{tmp_path}/nowhere " in message
    assert "No such file or directory" in message
    caplog.clear()
    _warn_of_triton((open_port,))
    assert "Connection refused" in caplog.text


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refuse("--host", "127.0.0.1", "--port", str(port))
    assert f"127.0.0.1:{port}" in line
    assert "--port" in line


@pytest.mark.parametrize(
    "url",
    [
        *("localhost", "http://localhost:8001", "localhost:0", ":8001", "a:1,,b:2"),
        *("unix:", f"unix:/{'x' * 107}", f"unix:/{'%E4%B8%AD' * 36}"),
    ],
)
def test_a_triton_url_that_is_none(url: str) -> None:
    assert "--triton-url" in refuse("--triton-url", url, "--port", "0")


@pytest.mark.parametrize("url", ["unix:/run/triton.sock:0,triton:8001", f"unix:/{'%E4%B8%AD' * 35}"])
def test_a_triton_url_may_name_a_unix_socket(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refuse("--triton-url", url, "--host", "127.0.0.1", "--port", str(taken.getsockname()[1]))
    assert "--port" in line, "the address was taken"


@pytest.mark.parametrize("keys", [[""], [" "], [","], ["one", ""]])
def test_a_key_that_is_none_is_refused(keys: list[str]) -> None:
    line = refuse("--port", "0", *(word for key in keys for word in ("--api-key", key)))
    assert "--api-key" in line


def test_other_sources_without_a_key_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none yet\n")
    assert str(tmp_path / "keys") in refuse("--port", "0", "--api-key-file", str(tmp_path / "keys"))
    monkeypatch.setenv("FD_API_KEY", ",")
    assert "$FD_API_KEY" in refuse("--port", "0")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ["--allowed-origins", "https://a"],
            '--allowed-origins https://a is not a JSON array of strings, like ["..."]',
        ),
        (["--allowed-origins", "[]"], "JSON array"),
        (["--allowed-origins", "[1]"], "JSON array"),
        (["--allowed-origins", '["a.com"]'], "'a.com' is not an origin: SCHEME://HOST[:PORT], or *"),
        (["--allowed-origins", '["https://a/"]'], "'https://a/' is not an origin"),
        (["--allowed-origins", '["https://*.a"]'], "'https://*.a' is not an origin"),
        (
            ["--allowed-origins", '["https://a"]', "--allowed-methods", '["GET POST"]'],
            "--allowed-methods: 'GET POST'",
        ),
        (["--allowed-origins", '["https://a"]', "--allowed-headers", '"x"'], "--allowed-headers"),
        (["--allowed-origins", '["*"]', "--allow-credentials"], "--allow-credentials lets every page"),
        (["--allow-credentials"], "--allow-credentials needs --allowed-origins"),
        (["--allowed-methods", '["GET"]'], "--allowed-methods needs --allowed-origins"),
        (["--allowed-headers", '["x"]'], "--allowed-headers needs --allowed-origins"),
    ],
)
def test_flags_of_other_origins_that_say_nothing(flags: list[str], told: str) -> None:
    assert told in refuse("--port", "0", *flags)


def test_the_flags_of_browsers_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Settings] = []

    def serve(settings: Settings, *_: object) -> bool:
        told.append(settings)
        return True

    monkeypatch.setattr("ernie_frontend.__main__.serve", serve)
    cors = ["--allowed-origins", '["https://A.example:8", "null"]', "--allowed-methods", '["GET"]']
    for flags in ([], [*cors, "--allowed-headers", '["x-a"]', "--allow-credentials", "--disable-fastapi-docs"]):
        assert run(["--host", "127.0.0.1", "--port", "0", *flags]) == 0
    assert [(each.cors, each.has_docs) for each in told] == [
        (None, True),
        (Cors(("https://a.example:8", "null"), ("GET",), ("x-a",), has_credentials=True), False),
    ]


def test_the_flags_of_media_become_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[MediaRules] = []

    def serve(settings: Settings, *_: object) -> bool:
        given.append(settings.media)
        return True

    monkeypatch.setattr("ernie_frontend.__main__.serve", serve)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    domains = ["--allowed-media-domains", "A.example, .b.example,*.b\u00fccher.example"]
    local = ["--allow-private-media", "--allowed-local-media-path", str(tmp_path / "link")]
    for flags in ([], domains, local):
        assert run(["--host", "127.0.0.1", "--port", "0", *flags]) == 0
    assert given == [
        MediaRules(),
        MediaRules(allowed_domains=("a.example", ".b.example", ".xn--bcher-kva.example")),
        MediaRules(allow_private=True, local_directory=(tmp_path / "real").resolve()),
    ]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--allowed-media-domains", ""], "--allowed-media-domains: '' is neither a host"),
        (["--allowed-media-domains", "a,https://b"], "--allowed-media-domains: 'https://b'"),
        (["--allowed-local-media-path", "/missing"], "--allowed-local-media-path /missing is not a directory"),
    ],
)
def test_flags_of_media_that_are_wrong(flags: list[str], complaint: str) -> None:
    assert complaint in refuse("--port", "0", *flags)


def test_serves_until_sigterm_and_exits_with_0() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{unused.getsockname()[1]}"
        process = subprocess.Popen(
            [*COMMAND, "--host", "127.0.0.1", "--port", "0", "--triton-url", nowhere],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "FD_API_KEY": "one,two"},
        )
        try:
            assert process.stderr is not None
            ready = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())
            assert ready is not None
            answer = http.get(f"{ready[0]}/v1/models")
            assert answer.status_code == 401
            authorized = {"Authorization": "Bearer two"}
            answer = http.get(f"{ready[0]}/v1/models", headers=authorized)
            assert answer.status_code == 503
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()
            process.communicate()
