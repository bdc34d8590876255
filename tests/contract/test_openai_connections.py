"""What clients put on the wire besides plain requests: offers of other protocols, odd framing, no HTTP."""

from __future__ import annotations

import json
import socket
import time

import pytest

from ernie_frontend.http.http1 import MAX_HEADER_BYTES
from fakes.triton_grpc import FakeTriton, hang_after_first
from support.http import answer_of, connected
from support.waiting import eventually

pytest_plugins = ("support.frontend_server",)

WAIT_S = 20.0
H2C = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
)
OFFERS = {
    "h2c": H2C,
    "no offer": b"",
    "websocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    "tls": b"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
}
FRAMINGS = ("whole", "in pieces", "chunked")
BODY = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi"}).encode()
STREAM = BODY[:-1] + b', "stream": true}'


def request(path: str, *, offer: bytes = b"", body: bytes = b"", framing: str = "whole") -> list[bytes]:
    """Return a request in the parts in which it is sent."""
    method = "POST" if body else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n".encode() + offer
    if not body:
        return [head + b"\r\n"]
    if framing == "chunked":
        chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:7], body[7:])]
        return [head + b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"]
    head += f"Content-Length: {len(body)}\r\n\r\n".encode()
    return [head + body] if framing == "whole" else [head[:30], head[30:] + body[:5], body[5:-1], body[-1:]]


def send(connection: socket.socket, parts: list[bytes]) -> None:
    for part in parts:
        connection.sendall(part)
        time.sleep(0.002)  # mostly a read of its own


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_offer_of_another_protocol_is_ignored(
    frontend: str, triton: FakeTriton, caplog: pytest.LogCaptureFixture, path: str, offer: bytes, framing: str
) -> None:
    """RFC 9110 7.8; two requests on one connection, and a stream."""
    with connected(frontend) as connection:
        for _ in range(2):
            send(connection, request(path, offer=offer, body=BODY, framing=framing))
            answer, content = answer_of(connection)
            assert (answer.status, answer.version) == (200, 11), content
            assert "Beijing." in content.decode()
        send(connection, request(path, offer=offer, body=STREAM, framing=framing))
        answer, content = answer_of(connection)
        assert answer.getheader("content-type", "").startswith("text/event-stream")
        assert content.endswith(b"data: [DONE]\n\n")
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/metrics", "/v1/models/ernie-tiny"])
def test_an_offer_without_a_body_is_ignored(frontend: str, triton: FakeTriton, path: str) -> None:
    with connected(frontend) as connection:
        for _ in range(2):
            send(connection, request(path, offer=H2C))
            assert answer_of(connection)[0].status == 200


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
def test_a_disconnect_after_an_offer_cancels(frontend: str, triton: FakeTriton, body: bytes) -> None:
    triton.answer = hang_after_first
    with connected(frontend) as connection:
        send(connection, request("/v1/completions", offer=H2C, body=body))
        eventually(lambda: triton.inferences)
    assert triton.cancelled.get(timeout=WAIT_S) == triton.inferences[0].inputs["request_id"]


def refused(connection: socket.socket, status: int) -> str:
    """Check an answer that ends its connection, and return the message in its envelope."""
    answer, content = answer_of(connection)
    assert answer.status == status
    assert answer.getheader("connection") == "close"
    assert connection.recv(1) == b""
    message = json.loads(content)["error"]["message"]
    assert isinstance(message, str)
    return message


def test_http_2_by_prior_knowledge_is_refused(frontend: str) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    with connected(frontend) as connection:
        send(connection, [preface, settings])
        assert "HTTP/1.1" in refused(connection, 505)


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
    ids=["words", "no host", "tls"],
)
def test_what_is_not_http_gets_the_envelope(frontend: str, sent: bytes) -> None:
    with connected(frontend) as connection:
        send(connection, [sent])
        assert refused(connection, 400)


@pytest.mark.parametrize("form", ["one header", "many headers", "without an end", "target"])
def test_a_large_header_is_refused(frontend: str, caplog: pytest.LogCaptureFixture, form: str) -> None:
    large = b"x" * MAX_HEADER_BYTES
    lines = {
        "one header": b"X: " + large,
        "many headers": b"\r\n".join(b"X-%d: x" % number for number in range(MAX_HEADER_BYTES // 4)),
        "without an end": b"X: " + large * 16,
        "target": b"X: x",
    }[form]
    target = b"/" + large if form == "target" else b"/v1/models"
    end = b"" if form == "without an end" else b"\r\n\r\n"
    with connected(frontend) as connection:
        send(connection, [b"GET %b HTTP/1.1\r\nHost: x\r\n%b%b" % (target, lines, end)])
        refused(connection, 431)
    assert len([record for record in caplog.records if record.name.startswith("uvicorn")]) == 1, "one line"


def test_a_header_below_the_limit_is_taken(frontend: str, triton: FakeTriton) -> None:
    with connected(frontend) as connection:
        send(connection, request("/v1/models", offer=b"X: " + b"x" * (MAX_HEADER_BYTES - 100) + b"\r\n"))
        assert answer_of(connection)[0].status == 200


def test_a_body_of_tiny_chunks_is_refused(frontend: str, triton: FakeTriton) -> None:
    """Each chunk costs the parser as much as a large one: a megabyte of them would take seconds."""
    head, *_, end = request("/v1/completions", body=BODY, framing="chunked")
    with connected(frontend) as connection:
        send(connection, [head, b"1\r\n \r\n" * 20_000])
        assert "chunks" in refused(connection, 400)
    for size, num_chunks in ((70, 6000), (1, 4000)):
        prompt = [b"%x\r\n%b\r\n" % (size, b"x" * size)] * num_chunks
        with connected(frontend) as connection:
            send(connection, [head, b'c\r\n{"prompt": "\r\n', b"".join(prompt), b'2\r\n"}\r\n', end])
            assert answer_of(connection)[0].status == 200


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["length first", "length last"])
def test_two_lengths_of_one_body_are_refused(frontend: str, triton: FakeTriton, order: slice) -> None:
    """RFC 9112 6.3: who believes the other one takes a part of the body for the next request."""
    fields = [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"][order]
    hidden = b"".join(request("/v1/models"))
    with connected(frontend) as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + b"".join(fields)
        send(connection, [head + b"\r\n0\r\n\r\n" + hidden])
        assert "Content-Length and Transfer-Encoding" in refused(connection, 400)
    assert not triton.inferences


def test_a_refusal_quotes_no_more_than_its_beginning(frontend: str) -> None:
    with connected(frontend) as connection:
        send(connection, [b"GET / HTTP/1.1\r\nHost: x\r\nX: \0" + b"x" * 50_000 + b"\r\n\r\n"])
        assert len(refused(connection, 400)) < 300


@pytest.mark.parametrize("url", ["http://example.com:80", "https://example.com", "HTTP://example.com"])
def test_a_target_with_a_host_is_taken(frontend: str, triton: FakeTriton, url: str) -> None:
    targets = (
        ("/v1/models?a=http://b/c", 200),
        ("/v1/models/http://a/b", 404),
        ("", 404),
        ("?a=/v1/models", 404),
    )
    with connected(frontend) as connection:
        for path, status in targets:
            send(connection, request(f"{url}{path}"))
            answer, content = answer_of(connection)
            assert answer.status == status, content


def test_http_1_0(frontend: str, triton: FakeTriton) -> None:
    head = f"POST /v1/completions HTTP/1.0\r\nContent-Length: {len(STREAM)}\r\n\r\n".encode()
    with connected(frontend) as connection:
        send(connection, [head + STREAM])
        answer, content = answer_of(connection)
    assert (answer.status, answer.getheader("transfer-encoding")) == (200, None)
    assert content.endswith(b"data: [DONE]\n\n")


def test_a_broken_body_beside_an_answer_is_no_fault_of_ours(
    frontend: str, triton: FakeTriton, caplog: pytest.LogCaptureFixture
) -> None:
    """The application may answer in the moment in which the parser gives the connection up."""
    bad = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    for path in (b"/v1/completions", b"/nothing"):
        with connected(frontend) as connection:
            send(connection, [bad % path])
            assert answer_of(connection)[0].status in (400, 404)
            assert connection.recv(1) == b""
    with connected(frontend) as connection:  # by its end the others have had their turn
        send(connection, request("/v1/models"))
        assert answer_of(connection)[0].status == 200
    assert not [record for record in caplog.records if record.exc_info]
