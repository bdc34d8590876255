"""The OpenAI frontend of one ``serve``: how it is started, and when it answers.

This module must not know Triton beyond its address, nor the engine.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import httpx

from ernie_cli.errors import CommandError
from ernie_cli.ports import LOOPBACK
from ernie_cli.serve_settings import ServeSettings
from ernie_frontend.api_keys import VARIABLE

START_DEADLINE_S = 120.0
_POLL_S = 0.05


def frontend_command(
    settings: ServeSettings, port: int, triton_url: str, entry: str
) -> tuple[list[str], dict[str, str]]:
    """Return the command and environment of a frontend on ``port``, before the Triton at ``triton_url``."""
    command = [sys.executable, "-m", "ernie_frontend", f"--triton-url={triton_url}"]
    command += [f"--host={settings.host}", f"--port={port}", f"--default-model={entry}"]
    command += [f"--timeout-graceful-shutdown={settings.drain_s}", *settings.frontend]
    if settings.served_model_name is not None:
        command.append(f"--served-model-name={settings.served_model_name}")
    environment = dict(os.environ)
    if settings.api_keys:
        environment[VARIABLE] = ",".join(settings.api_keys)  # a command line can be read by every user
    return command, environment


def base_url(host: str, port: int) -> str:
    """Return the URL at which this machine reaches a frontend that listens on ``host``."""
    if host in ("0.0.0.0", "", "::"):  # noqa: S104 - compared, not bound
        host = "::1" if host == "::" else LOOPBACK
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def wait_until_healthy(url: str) -> None:
    """Wait until the frontend at ``url`` says that it and the model are well.

    Raises:
        CommandError: it does not within ``START_DEADLINE_S``.
    """
    deadline = time.monotonic() + START_DEADLINE_S
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:  # noqa: S501 - plain HTTP
        while time.monotonic() < deadline:
            try:
                if (await client.get(f"{url}/health")).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet; it is asked again
            await asyncio.sleep(_POLL_S)
    raise CommandError(f"{url}/health is not well after {START_DEADLINE_S:g} s; the log is above")
