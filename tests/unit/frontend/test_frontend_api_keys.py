"""Keys: a source without one is refused; a file that changes is read again, and never leaves the API open."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from ernie_frontend.middleware.api_keys import ApiKeys, NoKey, environment_keys, read_key_file, split_keys


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    """Replace a file as an editor or Kubernetes does: by another one under its name."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.chmod(mode)
    return fresh.replace(path)


@pytest.mark.parametrize("text", ["", " ", ",", " ,\t, "])
def test_a_text_without_a_key_is_refused(text: str) -> None:
    with pytest.raises(NoKey, match="--api-key"):
        split_keys(text, "--api-key")


def test_an_empty_variable_counts_as_none_and_a_comma_does_not() -> None:
    assert environment_keys({}) == environment_keys({"FD_API_KEY": ""}) == ()
    assert environment_keys({"FD_API_KEY": " a , b,"}) == ("a", "b")
    for text in (",", " "):
        with pytest.raises(NoKey, match=r"\$FD_API_KEY"):
            environment_keys({"FD_API_KEY": text})


def test_a_file_has_a_key_a_line(tmp_path: Path) -> None:
    path = written(tmp_path / "keys", "\ufeff# team A\n one \n\ntwo#2\r\n  # gone: three\nfour,five\n")
    assert read_key_file(path) == ("one", "two#2", "four,five")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no key"),
        (b" \n# nothing\n", "no key"),
        (b"\xff\xfe", "UTF-8"),
        (b"x\n" * (1 << 20), "2097152"),
    ],
)
def test_a_file_without_keys_is_told(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(NoKey, match=f"{path} .*{why}"):
        read_key_file(path)


def test_what_is_no_file_is_told_and_a_pipe_does_not_keep_us_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, why in (
        ("", "regular file"),
        ("pipe", "regular file"),
        ("gone", "gone"),
    ):
        with pytest.raises(NoKey, match=why):
            read_key_file(tmp_path / name)


def test_without_any_source_no_key_is_asked_for() -> None:
    assert not ApiKeys().are_required
    assert ApiKeys(("one",)).are_required
    assert ApiKeys(("one",)).has(b"one")
    assert not ApiKeys(("one",)).has(b"on")
    assert ApiKeys(("schlüssel",)).has("schlüssel".encode())


def test_a_changed_file_counts_within_a_second(tmp_path: Path) -> None:
    clock, path = Clock(), written(tmp_path / "keys", "one\n")
    keys = ApiKeys(("fixed",), path, clock)
    assert keys.has(b"one")
    written(path, "two\n")
    clock.now_s += 0.9
    assert keys.has(b"one"), "the file is not looked at for each request"
    clock.now_s += 0.2
    assert [keys.has(key) for key in (b"one", b"two", b"fixed")] == [False, True, True]
    os.utime(path, ns=(1, 1))
    clock.now_s += 1
    assert keys.has(b"two")
    seen = path.stat()
    path.write_text("six\n")  # in place: the same inode, the same size, and the same time
    while path.stat().st_ctime_ns == seen.st_ctime_ns:  # the kernel's clock has ticks of some milliseconds
        os.utime(path, ns=(1, 1))
    clock.now_s += 1
    assert [keys.has(key) for key in (b"two", b"six")] == [False, True]


@pytest.mark.parametrize("content", [None, "", "# nobody\n", b"\xff"])
def test_a_file_that_breaks_leaves_the_old_keys_and_says_so_once(
    tmp_path: Path, content: str | bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = Clock(), written(tmp_path / "keys", "one\n")
    keys = ApiKeys((), path, clock)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            clock.now_s += 1
            assert keys.has(b"one")
            assert not keys.has(b"")
    assert [record.getMessage().startswith(f"API keys: {path} ") for record in caplog.records] == [True]
    written(path, "two\n")
    clock.now_s += 1
    assert not keys.has(b"one")
    assert keys.has(b"two")


def test_a_file_that_is_broken_at_the_start_lets_nobody_in_until_it_is_mended(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "keys"
    keys = ApiKeys((), path, clock)
    assert keys.are_required
    assert not keys.has(b"")
    written(path, "one\n")
    clock.now_s += 1
    assert keys.has(b"one")


def test_a_file_that_others_read_is_told_and_no_key_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = Clock(), written(tmp_path / "keys", "secret-1\n", 0o640)
    with caplog.at_level(logging.INFO):
        keys = ApiKeys((), path, clock)
        assert f"{path}; chmod 600" in caplog.text
        caplog.clear()
        path.chmod(0o600)
        clock.now_s += 1
        assert keys.has(b"secret-1")
    assert "other users" not in caplog.text
    assert "secret" not in caplog.text
