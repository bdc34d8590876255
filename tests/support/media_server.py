"""An HTTP server that answers by a script, byte for byte, and what media are fetched with in tests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from support.paths import ROOT

CERTIFICATE = ROOT / "tests/data/media_server.pem"
"""Self-signed, of media.test; the file has its key, too."""
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def response(
    body: bytes = b"picture", status: str = "200 OK", *headers: str, length: int | None = None
) -> bytes:
    """Return an HTTP response, whose Content-Length may lie."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    """Return a redirect."""
    return response(b"gone", status, f"Location: {location}")


@dataclass
class MediaServer:
    """What a server at 127.0.0.1 answers to each path, and the requests that it got.

    Attributes:
        answers: by path: bytes, after which the connection is closed, or a function that writes.
        requests: the heads of all requests.
        num_open, max_open: connections at the moment, and at most so far.
    """

    answers: dict[str, bytes | Answer] = field(default_factory=lambda: {"/": response()})
    requests: list[str] = field(default_factory=list)
    num_open: int = 0
    max_open: int = 0
    port: int = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of a connection."""
        self.num_open += 1
        self.max_open = max(self.max_open, self.num_open)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.requests.append(head)
            answer = self.answers[head.split(" ")[1]]
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                await answer(writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away
        finally:
            self.num_open -= 1
            writer.close()

    def url(self, path: str = "/", host: str = "media.test", scheme: str = "http") -> str:
        """Return the URL of a path; ``host`` needs a resolver that knows it."""
        return f"{scheme}://{host}:{self.port}{path}"


@asynccontextmanager
async def media_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[MediaServer]:
    """Run a server in this event loop."""
    media = MediaServer()
    server = await asyncio.start_server(media.answer, "127.0.0.1", 0, ssl=tls)
    media.port = server.sockets[0].getsockname()[1]
    try:
        yield media
    finally:
        server.close()


@dataclass
class Resolver:
    """Names and their addresses; a list of several answers is given one after the other, as a rebinding does.

    Attributes:
        answers: by name.
        questions: the names that were resolved.
    """

    answers: dict[str, list[Sequence[str]]] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.questions.append(host)
        answers = self.answers.get(host, [["127.0.0.1"]])
        return answers.pop(0) if len(answers) > 1 else answers[0]
