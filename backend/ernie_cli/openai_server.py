"""The server that a command sends requests to: its address and key, as arguments and as an HTTP client."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from ernie_backend.settings.kinds import Integer
from ernie_cli.errors import CommandError
from ernie_cli.serve.settings import api_keys
from ernie_cli.terminal_text import is_unicode, shown
from ernie_frontend.arguments import Parser, checked
from ernie_frontend.middleware.api_keys import NoKey, read_key_file

DEADLINE_S = 300.0
MAX_REASON_CHARACTERS = 200
_CONNECT_S = 30.0
_MAX_PORT = 65535
_VISIBLE_ASCII = re.compile(r"[!-~]+")
_HTML = re.compile(r"\s*<(!doctype|html|head|body)\b", re.IGNORECASE)
_MAX_CONCURRENCY = 512
"""A frontend's default limit. Each request is a connection, and a process may often open no more than 1024."""


@dataclass(frozen=True)
class Server:
    """An OpenAI API; checked before anything is sent.

    Attributes:
        url: its base, without ``/v1``.
        model: the model's name there.
        api_key: or None; never shown.

    Raises:
        CommandError: one of them cannot be sent; says which.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _is_url(self.url):
            raise CommandError(
                f"--url '{shown(self.url)}' is not http://HOST:PORT with a port of 1 to {_MAX_PORT}; "
                "give the server's, for example http://127.0.0.1:8188"
            )
        if not is_unicode(self.model):
            raise CommandError(f"--model '{shown(self.model)}' is not UTF-8 text; give the model's name there")
        if self.api_key is not None and not _VISIBLE_ASCII.fullmatch(self.api_key):
            raise CommandError(
                "--api-key must be of visible ASCII characters, without spaces; give the server's key"
            )


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError):
        return False
    return (
        url.scheme in ("http", "https") and bool(url.host) and (url.port is None or 0 < url.port <= _MAX_PORT)
    )


def add_server_arguments(parser: Parser) -> None:
    """Add the arguments of ``server_of``, and ``--concurrency``."""
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8188", metavar="URL", help="base URL of the server [%(default)s]")
    add("--model", default="default", metavar="NAME", help="the model's name there [%(default)s]")
    concurrency = checked(Integer(1, _MAX_CONCURRENCY).read)
    add("--concurrency", type=concurrency, default=8, metavar="N", help="requests in flight [%(default)s]")
    add("--api-key", metavar="KEY", help="of a server that requires one; else the first of $FD_API_KEY")
    add(
        "--api-key-file",
        type=Path,
        metavar="PATH",
        help="file of such keys, one a line, of which the first is taken",
    )


def server_of(options: argparse.Namespace) -> Server:
    """Return the server that the arguments name.

    Raises:
        CommandError: one of them cannot be sent, or there is no key where they say.
    """
    key = _first_key(options.api_key_file) if options.api_key is None else options.api_key
    return Server(options.url.rstrip("/").removesuffix("/v1"), options.model, key)


def connected(server: Server) -> httpx.AsyncClient:
    """Return a client for the server, with its key and a deadline."""
    return httpx.AsyncClient(
        headers={} if server.api_key is None else {"Authorization": f"Bearer {server.api_key}"},
        timeout=httpx.Timeout(DEADLINE_S, connect=_CONNECT_S),
        # Its own limit of 100 connections would hold back the others, whose time would run out meanwhile.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        trust_env=False,
    )


def reason(response: httpx.Response) -> str:
    """Return the message of an OpenAI error, or what came instead of one."""
    try:
        text = str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        text = response.text
        if _HTML.match(text):
            return "an HTML page, which is not from an OpenAI API; check --url, and proxies before it"
    return shown(text, MAX_REASON_CHARACTERS) or "(nothing)"


def _first_key(file: Path | None) -> str | None:
    """Return a key of the file, else of the variable that the server takes its own keys from, else None.

    Raises:
        CommandError: the file, or the variable, holds no key.
    """
    if file is None:
        return next(iter(api_keys({})), None)
    try:
        return read_key_file(file)[0]
    except NoKey as error:
        raise CommandError(f"--api-key-file: {error}") from None
