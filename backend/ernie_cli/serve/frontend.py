"""The OpenAI frontend of one ``serve``: its command, and whether it answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from ernie_cli.errors import CommandError
from ernie_cli.processes.ports import LOOPBACK
from ernie_cli.serve.settings import ServeSettings
from ernie_frontend.middleware.api_keys import API_KEY_VARIABLE

START_DEADLINE_S = 120.0
SILENCE_LIMIT_S = 30.0
_ANSWER_LIMIT_S = 10.0  # /health takes a few seconds where Triton hangs
_ASK_INTERVAL_S = 2.0
_POLL_S = 0.02


def frontend_command(
    settings: ServeSettings, port: int, triton_url: str, entry: str, temporary: Path
) -> tuple[list[str], dict[str, str]]:
    """Return the command and environment of a frontend.

    Args:
        settings: of this ``serve``.
        port: that it listens on.
        triton_url: of the Triton behind it.
        entry: name of the model there.
        temporary: directory for its files, which stay if it is killed.
    """
    command = [sys.executable, "-m", "ernie_frontend", f"--triton-url={triton_url}"]
    command += [f"--host={settings.host}", f"--port={port}", f"--default-model={entry}"]
    command += [f"--timeout-graceful-shutdown={settings.drain_s}", *settings.frontend]
    if settings.served_model_name is not None:
        command.append(f"--served-model-name={settings.served_model_name}")
    environment = {**os.environ, "TMPDIR": str(temporary)}
    if settings.api_keys:
        environment[API_KEY_VARIABLE] = ",".join(settings.api_keys)  # a command line can be read by every user
    return command, environment


def base_url(host: str, port: int) -> str:
    """Return the URL at which this machine reaches a frontend that listens on ``host``."""
    if host in ("0.0.0.0", "", "::"):  # noqa: S104 - compared, not bound
        host = "::1" if host == "::" else LOOPBACK
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def wait_until_ready(url: str, *, must_be_healthy: bool = True) -> None:
    """Wait until the frontend at ``url`` answers.

    Args:
        url: its base.
        must_be_healthy: wait until the frontend and the model are healthy, too.

    Raises:
        CommandError: it does not within ``START_DEADLINE_S``.
    """
    deadline = time.monotonic() + START_DEADLINE_S
    while (status := await _status(url)) is None or (must_be_healthy and status != HTTPStatus.OK):
        if time.monotonic() > deadline:
            raise CommandError(
                f"the frontend at {url} is not ready after {START_DEADLINE_S:g} s; the log is above"
            )
        await asyncio.sleep(_POLL_S)


async def watch_answers(url: str) -> NoReturn:
    """Ask the frontend repeatedly; with any status as the answer, it does not hang.

    Raises:
        CommandError: several questions in a row were not answered.
    """
    silent_s = 0.0
    while silent_s < SILENCE_LIMIT_S:
        await asyncio.sleep(_ASK_INTERVAL_S)
        silent_s = 0.0 if await _status(url) is not None else silent_s + _ANSWER_LIMIT_S
    raise CommandError(f"the OpenAI frontend has answered nothing for {SILENCE_LIMIT_S:g} s")


async def _status(url: str) -> int | None:
    """Ask once, over a new connection, which any worker may accept; None if there is no answer."""
    place = urlsplit(url)
    with contextlib.suppress(OSError, ValueError, asyncio.TimeoutError):
        return await asyncio.wait_for(_ask(place.hostname or "", place.port or 80), _ANSWER_LIMIT_S)
    return None


async def _ask(host: str, port: int) -> int:
    """Return the status of ``/health``; raises OSError or ValueError if there is none.

    An HTTP client would take a tenth of a second to import, at every start.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET /health HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        return int((await reader.readline())[9:12])
    finally:
        writer.close()
