"""Several worker processes behind one port: started, started again when one dies, and ended together.

uvicorn's supervisor does it; each worker gets the one listening socket and the one file of slots. A worker
whose supervisor is killed ends by itself. Must not know flags nor routes.
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

# A worker that does not answer its supervisor for so long hangs and is replaced. One that dies just while it is
# asked is noticed only then, so it is no more than a slow start needs.
_HEALTH_CHECK_S = 20
_LAST_WORDS_S = 5
"""What clients get to read the error with which their answer ended; then uvicorn cuts their connections."""


def serve(settings: Settings, listeners: list[socket.socket], workers: int) -> bool:
    """Serve until SIGTERM, SIGHUP or Ctrl-C, then let the answers under way end (``Settings.drain_s``).

    Args:
        settings: what every worker is told.
        listeners: the listening sockets.
        workers: how many processes; 1 serves in this one.

    Returns:
        Whether it served at all.

    Raises:
        OSError: there is no room for the files of several workers.
    """
    config = http_config(
        partial(worker_app, settings, slots_file(), is_child=workers > 1),
        settings,
        factory=True,
        workers=workers,
        log_level="warning",
        timeout_graceful_shutdown=None if settings.drain_s is None else int(settings.drain_s) + _LAST_WORDS_S,
        timeout_worker_healthcheck=_HEALTH_CHECK_S,
    )
    is_ignored = signal.SIGHUP not in end_signals()
    if workers > 1:
        with tempfile.TemporaryDirectory(prefix="ernie-frontend-metrics-") as directory:
            os.environ[DIRECTORY_VARIABLE] = directory  # read by the workers, which have not begun
            reserve_files(Path(directory), workers)
            supervisor = _Supervisor(config, listeners)  # takes SIGHUP itself, as a wish for new workers
            _take_hangup_as(lambda: supervisor.signal_queue.append(signal.SIGTERM), is_ignored=is_ignored)
            supervisor.run()
        return True
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises them again when it is done: not to kill us
    _take_hangup_as(lambda: signal.raise_signal(signal.SIGTERM), is_ignored=is_ignored)
    server = uvicorn.Server(config)
    server.run(listeners)
    return server.started


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, which tells of each worker that it replaces, and why that one ended."""

    def keep_subprocess_alive(self) -> None:
        before = list(self.processes)
        super().keep_subprocess_alive()
        for worker in before:
            if worker not in self.processes:
                how = Exit.of(worker.exitcode or 0).words
                logger.warning("worker %s ended: it %s; another one is started", worker.pid, how)


def http_config(app: Callable[..., Any], settings: Settings, **named: Any) -> uvicorn.Config:  # noqa: ANN401
    """Return how uvicorn serves an application of ours; ``named`` are other arguments of its ``Config``."""
    connections = Connections(settings.max_connections)
    protocol: Any = partial(Http1Protocol, settings, connections)
    return uvicorn.Config(app, http=protocol, ws="none", log_config=None, access_log=False, **named)


def worker_app(settings: Settings, slots_path: str, *, is_child: bool) -> FastAPI:
    """Return the application of one worker; called in its process."""
    if is_child:
        log_to_standard_error(logging.INFO)
        take_files(Path(os.environ[DIRECTORY_VARIABLE]))
        threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    return create_app(settings, slots_path)


def _take_hangup_as(end: Callable[[], None], *, is_ignored: bool) -> None:
    """End when the terminal is closed, unless that was ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else lambda *_: end())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
