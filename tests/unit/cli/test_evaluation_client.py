"""Who an evaluation asks: an address, a name or a key that cannot be sent is refused before anything is."""

from __future__ import annotations

import pytest

from ernie_cli.errors import CommandError
from ernie_cli.openai_server import Server


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8188", "https://example.org", "http://[::1]:8188", "http://h:65535/base"]
)
def test_a_url(url: str) -> None:
    assert Server(url, "default").url == url


@pytest.mark.parametrize(
    "url",
    [
        "", "nonsense", "127.0.0.1:8188", "http://", "ftp://host", "http://[::1", "http://h:99999", "http://h:-1",
        "http://h:0", "http://\udcff", "http://h/\udcff", "http://h\x1b[2J", "http://h/" + "x" * 100_000,
    ],
)  # fmt: skip
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(CommandError, match="http://HOST:PORT") as caught:
        Server(url, "default")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 250


def test_a_model_that_is_no_text() -> None:
    with pytest.raises(CommandError, match=r"--model .*a\\udcff"):
        Server("http://h", "a\udcff")


@pytest.mark.parametrize("key", ["", "sécret", "secret ", " secret", "sec\nret", "secret\udcff"])
def test_a_key_that_is_none_is_not_shown(key: str) -> None:
    with pytest.raises(CommandError, match=r"--api-key .*ASCII") as caught:
        Server("http://h", "default", key)
    assert "cret" not in caught.value.message


def test_a_key_is_no_part_of_what_is_printed() -> None:
    assert "secret" not in repr(Server("http://h", "default", "secret"))
