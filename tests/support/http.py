"""Requests to servers of this machine: past any proxy, and without the certificates that take long to load."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from http.client import HTTPResponse
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection, socket
from typing import Any

import httpx

TIMEOUT_S = 60.0


def request(method: str, url: str, *, timeout: float = TIMEOUT_S, **named: Any) -> httpx.Response:
    """Send a request and return its whole answer; ``named`` is httpx's."""
    return httpx.request(method, url, trust_env=False, verify=False, timeout=timeout, **named)


get = partial(request, "GET")
post = partial(request, "POST")


def stream(
    method: str, url: str, *, timeout: float = TIMEOUT_S, **named: Any
) -> AbstractContextManager[httpx.Response]:
    """Send a request whose answer is read piece by piece."""
    return httpx.stream(method, url, trust_env=False, verify=False, timeout=timeout, **named)


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket]:
    """A connection to the server of a URL, for what no client sends."""
    host, port = url.removeprefix("http://").split(":")
    with create_connection((host, int(port)), TIMEOUT_S) as connection:
        connection.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        yield connection


def answer_of(connection: socket) -> tuple[HTTPResponse, bytes]:
    """Read one answer from a connection."""
    answer = HTTPResponse(connection)
    answer.begin()
    return answer, answer.read()
