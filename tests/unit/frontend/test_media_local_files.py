"""``file:`` URLs: only regular files under the allowed directory, whatever stands in between."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ernie_frontend.http_errors import MediaNotAllowed, MediaUnavailable
from ernie_frontend.media.local_files import read_local_file
from ernie_wire.errors import InvalidRequest, InvalidValue

LIMIT = 1000


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    directory = tmp_path / "allowed"
    (directory / "inner").mkdir(parents=True)
    (directory / "inner" / "a b?.png").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "secret").write_bytes(b"secret")
    return directory


def read(url: str, directory: Path | None) -> bytes:
    return read_local_file(url, directory, LIMIT)


def test_a_file(allowed: Path) -> None:
    path = "inner/a%20b%3F.png"
    for prefix in ("file://", "FILE://localhost", "file:"):
        assert read(f"{prefix}{allowed}/./inner/../{path}", allowed) == b"picture"


def test_a_link_inside_the_directory_is_followed(allowed: Path) -> None:
    (allowed / "link").symlink_to("inner")
    assert read(f"file://{allowed}/link/a%20b%3F.png", allowed) == b"picture"


def test_none_is_allowed_without_the_flag(allowed: Path) -> None:
    with pytest.raises(MediaNotAllowed, match="--allowed-local-media-path"):
        read(f"file://{allowed}/inner/a%20b%3F.png", None)


def test_no_way_leads_out_and_none_says_what_is_there(allowed: Path) -> None:
    outside = allowed.parent
    (allowed / "link").symlink_to(outside / "secret")
    (allowed / "up").symlink_to(outside)
    (allowed / "chain").symlink_to(allowed / "up" / "secret")
    urls = [
        *(
            f"file://{outside}/{name}"
            for name in ("secret", "missing", "allowed-not/secret", "allowed/../secret")
        ),
        *(f"file://{allowed}/{name}" for name in ("link", "up/secret", "up/missing", "chain", "%2e%2e/secret")),
        "file:///etc/passwd",
        "file:///proc/self/environ",
    ]
    messages = set()
    for url in urls:
        with pytest.raises(MediaNotAllowed) as caught:
            read(url, allowed)
        messages.add(caught.value.message)
    assert messages == {"the file is not under the directory of --allowed-local-media-path"}


def test_a_file_that_becomes_a_link_to_the_outside_is_not_read(
    allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory of the file is swapped after it was looked at, and before it is opened."""
    (allowed / "inner" / "secret").write_bytes(b"mine")
    resolve = os.path.realpath

    def swap(path: str) -> str:
        resolved = resolve(path)
        (allowed / "inner").rename(allowed / "other")
        (allowed / "inner").symlink_to(allowed.parent)
        return resolved

    monkeypatch.setattr("os.path.realpath", swap)
    with pytest.raises(MediaNotAllowed, match="not under"):
        read(f"file://{allowed}/inner/secret", allowed)


def test_only_regular_files_are_opened(allowed: Path) -> None:
    """A FIFO without a writer would block; opening a device can do anything."""
    os.mkfifo(allowed / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(allowed / "socket"))
    for name in ("fifo", "socket", "inner", ""):
        with pytest.raises(MediaNotAllowed, match="regular"):
            read(f"file://{allowed}/{name}", allowed)
    with pytest.raises(MediaNotAllowed, match="regular"):
        read("file:///dev/zero", Path("/"))


@pytest.mark.parametrize(
    ("size", "complaint"), [(0, "empty"), (LIMIT + 1, f"more than {LIMIT}"), (1 << 40, f"more than {LIMIT}")]
)
def test_sizes(allowed: Path, size: int, complaint: str) -> None:
    with (allowed / "file").open("wb") as file:
        file.truncate(size)
    with pytest.raises(InvalidValue, match=complaint):
        read(f"file://{allowed}/file", allowed)


def test_what_cannot_be_read(allowed: Path) -> None:
    with pytest.raises(MediaUnavailable, match="No such file"):
        read(f"file://{allowed}/missing", allowed)
    with pytest.raises(InvalidRequest):
        read(f"file://{allowed}/{'a' * 5000}", allowed)


@pytest.mark.parametrize(
    "url",
    [
        "file:",
        "file://",
        "file:a.png",
        "file://host/a",
        "file:///a%00b",
        "file:///a?b",
        "file:///a#b",
        "file://[/a",
    ],
)
def test_urls_that_are_wrong(allowed: Path, url: str) -> None:
    with pytest.raises(InvalidValue, match="file: URL"):
        read(url, allowed)
