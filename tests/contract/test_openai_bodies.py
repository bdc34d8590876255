"""Compressed request bodies: what is read, what is refused, and that a bomb stops at the limit."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager

import httpx
import pytest
from starlette.types import Message

from ernie_frontend.http_errors import BodyTooLarge
from ernie_frontend.middleware.bodies import _Body, _Limit
from fakes.triton_grpc import FakeTriton
from support import http

pytest_plugins = ("support.frontend_server",)

RunFrontend = Callable[..., AbstractContextManager[str]]
BODY = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi"}
TEXT = json.dumps(BODY).encode()
PACKED = gzip.compress(TEXT)
LIMIT = 1 << 20  # of the fixture frontend


def post(url: str, content: bytes | Iterator[bytes], encoding: str = "gzip") -> httpx.Response:
    return http.post(
        f"{url}/v1/completions",
        content=content,
        headers={"Content-Encoding": encoding},
    )


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", " gzip ", "gzip, identity"])
@pytest.mark.parametrize("piece", [1 << 20, 5, 1])
def test_gzip(frontend: str, triton: FakeTriton, encoding: str, piece: int) -> None:
    """Whole and in chunks."""
    pieces = (PACKED[start : start + piece] for start in range(0, len(PACKED), piece))
    assert post(frontend, pieces, encoding.strip()).status_code == 200
    assert triton.inferences[0].inputs["text_input"] == "Hi"


@pytest.mark.parametrize("encoding", ["", "identity", "Identity"])
def test_no_compression(frontend: str, triton: FakeTriton, encoding: str) -> None:
    assert post(frontend, TEXT, encoding).status_code == 200


def test_gzip_of_a_stream_in_chat(frontend: str, triton: FakeTriton) -> None:
    answer = http.post(
        f"{frontend}/v1/chat/completions",
        content=gzip.compress(json.dumps({**BODY, "stream": True}).encode()),
        headers={"Content-Encoding": "gzip"},
    )
    assert answer.text.endswith("data: [DONE]\n\n")


def test_members_are_joined(frontend: str, triton: FakeTriton) -> None:
    parts = [TEXT[:9], b"", TEXT[9:]]
    members = b"".join(gzip.compress(part) for part in parts)
    for content in (members, iter(members[start : start + 3] for start in range(0, len(members), 3))):
        assert post(frontend, content).status_code == 200


def test_a_large_body(frontend: str, triton: FakeTriton) -> None:
    """Nearly at the limit, which is several pieces; and a byte above it."""
    room = LIMIT - len(json.dumps({"prompt": ""}))
    for size, status in ((room, 200), (room + 1, 413)):
        assert post(frontend, gzip.compress(json.dumps({"prompt": "a" * size}).encode())).status_code == status
    assert triton.inferences[0].inputs["text_input"] == "a" * room


BROKEN = {
    "empty": b"",
    "not gzip": TEXT,
    "zlib": zlib.compress(TEXT),
    "header only": PACKED[:10],
    "cut in the middle": PACKED[: len(PACKED) // 2],
    "cut in the checksum": PACKED[:-1],
    "wrong checksum": PACKED[:-8] + b"\x00\x00\x00\x00" + PACKED[-4:],
    "wrong length": PACKED[:-4] + b"\x00\x00\x00\x00",
    "a flipped bit": PACKED[:15] + bytes([PACKED[15] ^ 8]) + PACKED[16:],
    "garbage after it": PACKED + b"garbage",
    "zeros after it": PACKED + bytes(512),
    "half a member after it": PACKED + PACKED[:12],
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_what_is_not_gzip(frontend: str, triton: FakeTriton, content: bytes) -> None:
    for sent in (content, iter([content[:20], content[20:]])):
        answer = post(frontend, sent)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith("the request body is not gzip")
    assert not triton.inferences


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "compress", "gzip, gzip", "br, gzip", "x" * 500])
def test_other_encodings_are_named(frontend: str, triton: FakeTriton, encoding: str) -> None:
    answer = post(frontend, PACKED, encoding)
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip")
    error = answer.json()["error"]
    assert error["code"] == "unsupported_content_encoding"
    assert encoding[:40] in error["message"]
    assert len(error["message"]) < 200


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """128 MiB of zeros, packed to a thousandth."""
    pack = zlib.compressobj(level=1, wbits=31)
    piece = bytes(1 << 20)
    return b"".join([*(pack.compress(piece) for _ in range(128)), pack.flush()])


def test_a_bomb_stops_at_the_limit(run_frontend: RunFrontend, triton: FakeTriton, bomb: bytes) -> None:
    """The usual limit is 8 MiB."""
    assert len(bomb) < 1 << 20
    with run_frontend(triton.url) as url:
        answer = post(url, bomb)
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert error["code"] == "request_too_large"
    seen = int(error["message"].split(" bytes")[0].split()[-1])
    assert 8 << 20 < seen < 9 << 20


def test_blocks_that_become_nothing_are_counted(frontend: str, triton: FakeTriton) -> None:
    endless = gzip.compress(b"")[:10] + b"\x00\x00\x00\xff\xff" * (LIMIT // 4)
    pieces = (endless[start : start + 65536] for start in range(0, len(endless), 65536))
    assert post(frontend, pieces).status_code == 413


@pytest.mark.parametrize("content", [b"", b" "])
def test_members_are_bounded(frontend: str, triton: FakeTriton, content: bytes) -> None:
    """Each takes as long as a large one: a body of 8 MiB of them took half a minute."""
    small = gzip.compress(content)
    assert post(frontend, small * 1023 + PACKED).status_code == 200
    answer = post(frontend, small * 1024 + PACKED)
    assert answer.status_code == 400
    assert "1024" in answer.json()["error"]["message"]


def test_encodings_of_several_fields_are_one_list(frontend: str, triton: FakeTriton) -> None:
    """RFC 9110 5.3."""
    for fields, status in ((("identity", "gzip"), 200), (("gzip", "gzip"), 415), (("gzip", "br"), 415)):
        headers = [("Content-Encoding", field) for field in fields]
        answer = http.post(f"{frontend}/v1/completions", content=PACKED, headers=headers)
        assert answer.status_code == status


async def eight_mib() -> int:
    return 8 << 20


async def read(receive: Callable[[], Awaitable[Message]]) -> None:
    body = _Body(receive, _Limit(1 << 20, eight_mib), is_compressed=True)
    while (await body.receive())["more_body"]:
        pass


async def test_a_bomb_takes_no_memory(bomb: bytes) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": bomb, "more_body": False}

    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            await read(receive)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 << 20


async def test_others_have_their_turn_between_two_pieces() -> None:
    num_turns = 0

    async def receive() -> Message:
        return {"type": "http.request", "body": gzip.compress(bytes(8 << 20)), "more_body": False}

    async def others() -> None:
        nonlocal num_turns
        while True:
            num_turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await read(receive)
    task.cancel()
    assert num_turns >= 32  # pieces of 256 KiB
