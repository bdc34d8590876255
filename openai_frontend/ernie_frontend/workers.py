"""Worker processes behind one port, by uvicorn's supervisor: started, restarted and stopped together.

All share one listening socket and one file of slots. A worker whose supervisor is killed stops.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from ernie_frontend.app import create_app
from ernie_frontend.http.connections import Connections
from ernie_frontend.http.http1 import Http1Protocol
from ernie_frontend.log_output import log_to_standard_error
from ernie_frontend.metrics import DIRECTORY_VARIABLE, reserve_files, take_files
from ernie_frontend.middleware.concurrency import slots_file
from ernie_frontend.settings import Settings
from ernie_wire.processes import Exit, end_signals

logger = logging.getLogger(__name__)

# A worker that does not answer its supervisor for this long is replaced. If it dies during such a check, the
# supervisor notices only then, so this is no longer than a slow start needs.
_HEALTH_CHECK_S = 20
_LAST_EVENTS_S = 5
"""Time for clients to read the error that ended their answer; then uvicorn closes their connections."""


def serve(settings: Settings, listeners: list[socket.socket], workers: int) -> bool:
    """Serve until SIGTERM, SIGHUP or Ctrl-C, then let the answers under way end (``Settings.drain_s``).

    Args:
        settings: of every worker.
        listeners: the listening sockets.
        workers: how many processes; 1 serves in this one.

    Returns:
        Whether it served at all.

    Raises:
        OSError: the disk has no space for the workers' metrics files.
    """
    config = http_config(
        partial(worker_app, settings, slots_file(), is_child=workers > 1),
        settings,
        factory=True,
        workers=workers,
        log_level="warning",
        timeout_graceful_shutdown=None if settings.drain_s is None else int(settings.drain_s) + _LAST_EVENTS_S,
        timeout_worker_healthcheck=_HEALTH_CHECK_S,
    )
    is_ignored = signal.SIGHUP not in end_signals()
    if workers > 1:
        with tempfile.TemporaryDirectory(prefix="ernie-frontend-metrics-") as directory:
            os.environ[DIRECTORY_VARIABLE] = directory  # before the workers start, which read it
            reserve_files(Path(directory), workers)
            supervisor = _Supervisor(config, listeners)  # would handle SIGHUP as a request for new workers
            _handle_hangup(lambda: supervisor.signal_queue.append(signal.SIGTERM), is_ignored=is_ignored)
            supervisor.run()
        return True
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises them again at its end
    _handle_hangup(lambda: signal.raise_signal(signal.SIGTERM), is_ignored=is_ignored)
    server = uvicorn.Server(config)
    server.run(listeners)
    return server.started


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, with a log line about every worker that it replaces."""

    def keep_subprocess_alive(self) -> None:
        before = list(self.processes)
        super().keep_subprocess_alive()
        for worker in before:
            if worker not in self.processes:
                how = Exit.of(worker.exitcode or 0).words
                logger.warning("worker %s ended: it %s; another one is started", worker.pid, how)


def http_config(app: Callable[..., Any], settings: Settings, **named: Any) -> uvicorn.Config:  # noqa: ANN401
    """Return uvicorn's configuration for our application; ``named`` are further arguments of it."""
    connections = Connections(settings.max_connections)
    protocol: Any = partial(Http1Protocol, settings, connections)
    return uvicorn.Config(app, http=protocol, ws="none", log_config=None, access_log=False, **named)


def worker_app(settings: Settings, slots_path: str, *, is_child: bool) -> FastAPI:
    """Return the application of one worker; runs in the worker's process."""
    if is_child:
        log_to_standard_error(logging.INFO)
        take_files(Path(os.environ[DIRECTORY_VARIABLE]))
        threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    return create_app(settings, slots_path)


def _handle_hangup(end: Callable[[], None], *, is_ignored: bool) -> None:
    """Stop when the terminal closes, unless SIGHUP was ignored at the start."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else lambda *_: end())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
