"""``data:`` URLs as clients write them."""

from __future__ import annotations

import base64
import contextlib
import tracemalloc
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_wire import data_urls
from ernie_wire.data_urls import read_data_url
from ernie_wire.errors import InvalidValue

DATA = bytes(range(256)) + b"\xfb\xff\xfe"
TEXT = base64.b64encode(DATA).decode()
LINES = base64.encodebytes(DATA).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{TEXT}",
        f"data:image/jpg;base64,{TEXT}",
        f"DATA:IMAGE/PNG;BASE64,{TEXT}",
        f"data:image/png;base64,{LINES}",
        f"data:image/png;base64,{LINES}".replace("\n", "\r\n"),
        f"data:image/png;base64, {TEXT}\n",
        f"data:image/png;base64,{base64.urlsafe_b64encode(DATA).decode()}",
        f"data:image/png;base64,{TEXT.rstrip('=')}",
        f"data:image/png;base64,{TEXT.rstrip('=')}===",
        f"data:image/png;charset=utf-8;base64,{TEXT}",
        f"data:image/png;name=a.png; base64 ,{TEXT}",
        f"data:image/png;base64;name=a.png,{TEXT}",
        f"data:;base64,{TEXT}",
        f"data:image/png;base64,{quote(TEXT)}",
        f"data:image/png;base64,{quote(LINES)}",
        f"data:image/png,{quote(DATA)}",
        f"data:,{quote(DATA)}",
    ],
)
def test_spellings(url: str) -> None:
    assert read_data_url(url) == DATA


def test_other_data_may_have_commas_and_plus_signs() -> None:
    assert read_data_url("data:image/svg+xml,<svg>a,b+c</svg>") == b"<svg>a,b+c</svg>"
    assert read_data_url("data:text/plain;charset=base64-not,abc") == b"abc"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("data:image/png;base64", "comma"),
        ("data:", "comma"),
        (f"data:{';' * 10_000};base64,{TEXT}", "first 4096"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,====", "empty"),
        ("data:image/png,", "empty"),
        ("data:image/png;base64,AAA@", "'@'"),
        ("data:image/png;base64,AA==AA==", "'='"),
        ("data:video/jpeg;base64,AAAA,BBBB", "','"),
        ("data:image/png;base64,AAAAA", "cut off"),
        ("data:image/png;base64,\u00e4AAA", "ASCII"),
        ("data:image/png;base64,%e4AAA", "ASCII"),
        ("data:image/png;base64,\ud800AAA", "ASCII"),
    ],
)
def test_what_is_not_one(url: str, complaint: str) -> None:
    with pytest.raises(InvalidValue, match=complaint):
        read_data_url(url)


@given(data=st.binary(min_size=1, max_size=100), piece=st.integers(1, 9), width=st.integers(1, 9))
def test_pieces_and_line_breaks_may_be_anywhere(data: bytes, piece: int, width: int) -> None:
    text = base64.b64encode(data).decode()
    lines = "\r\n".join(text[begin : begin + width] for begin in range(0, len(text), width))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_urls, "_PIECE_CHARACTERS", piece)
        assert read_data_url(f"data:;base64,{lines}") == data


@given(data=st.binary(min_size=1, max_size=100), piece=st.integers(3, 9), is_base64=st.booleans())
def test_pieces_divide_no_escape(data: bytes, piece: int, *, is_base64: bool) -> None:
    content = base64.b64encode(data) if is_base64 else data
    escaped = "".join(f"%{byte:02x}" for byte in content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_urls, "_PIECE_CHARACTERS", piece)
        assert read_data_url(f"data:{';base64' * is_base64},{escaped}") == data


def test_escapes_take_little_memory() -> None:
    escaped = "%41" * 400_000
    tracemalloc.start()
    for header in ("data:,", "data:;base64,"):
        assert read_data_url(header + escaped)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(escaped), "urllib unquotes at some 80 bytes for a character"


def test_half_of_a_surrogate_pair_is_no_failure() -> None:
    assert read_data_url("data:,a\ud800")[:1] == b"a"


@given(text=st.text(max_size=40))
def test_anything_is_read_or_refused(text: str) -> None:
    for url in (f"data:{text}", f"data:;base64,{text}"):
        with contextlib.suppress(InvalidValue):
            assert read_data_url(url)
