"""The engine process: arguments, signals, log, start, loop.

Started by the stub as ``python -m ernie_backend --socket-fd N --settings JSON``. The first message is Ready or
StartFailed. SIGINT is ignored, since Ctrl-C reaches the whole foreground group and the stub ends its engine
itself; SIGTERM ends the process at once, as by default. The kernel kills it, even if it is stopped, when the
stub dies.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
import time

from ernie_backend.errors import StartError
from ernie_backend.parallel.group import GroupObserver
from ernie_backend.service.connection import Connection
from ernie_backend.service.engine_loop import EngineLoop, Inbox
from ernie_backend.service.input_thread import InputThread
from ernie_backend.service.start import StartedEngine, start_engine
from ernie_wire.messages import ALIVE_S, Alive, Cancel, Fault, GenerateRequest, Message, StartFailed, Starting
from ernie_wire.processes import die_with_parent

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run the engine process; return its exit status."""
    die_with_parent(signal.SIGKILL)
    os.umask(0o077)  # files of the engine and its ranks are private, however Triton was started
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()  # a hanging engine writes its stacks at the stub's SIGABRT
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s engine %(levelname)s %(name)s: %(message)s"
    )
    parser = argparse.ArgumentParser(prog="python -m ernie_backend")
    parser.add_argument("--socket-fd", type=int, required=True, help="descriptor of the socket to the stub")
    parser.add_argument("--settings", type=json.loads, required=True, help="the entry's parameters, JSON")
    options = parser.parse_args(arguments)
    connection = Connection(socket.socket(fileno=options.socket_fd))
    try:
        started = start_engine(options.settings, _RankObserver(connection))
    except StartError as error:
        logger.error("the engine cannot start: %s", error.message)  # noqa: TRY400  one line, no traceback
        return _refuse(StartFailed(error.message, error.exit_signal), connection)
    except Exception as error:
        logger.exception("the engine cannot start")
        return _refuse(StartFailed(f"{type(error).__name__}: {error}"), connection)
    return _serve(started, connection)


class _RankObserver(GroupObserver):
    """Reports progress and failure of the ranks to the stub."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def on_progress(self) -> None:
        """See ``GroupObserver``."""
        self._connection.send(Starting())

    def on_failure(self, cause: str, exit_signal: int | None, /) -> None:
        """See ``GroupObserver``."""
        self._connection.send(Fault(cause, exit_signal))
        self._connection.flush()
        super().on_failure(cause, exit_signal)


def _refuse(failure: StartFailed, connection: Connection) -> int:
    connection.send(failure)
    connection.flush()
    return 1


def _serve(started: StartedEngine, connection: Connection) -> int:
    inbox = Inbox()
    prepare = None if started.media_pool is None else started.media_pool.submit
    input_thread = InputThread(started.input_processor, inbox, started.max_num_waiting, prepare)

    def receive(message: Message) -> None:
        if isinstance(message, GenerateRequest):
            input_thread.submit(message)
        elif isinstance(message, Cancel):
            input_thread.cancel(message)

    connection.send(started.ready)
    connection.receive_with(receive)
    threading.Thread(target=_say_alive, args=(connection,), name="alive", daemon=True).start()
    gc.freeze()  # what the start has made stays: no collection between two steps needs to look at it
    logger.info("ready")
    try:
        EngineLoop(started.engine, inbox, connection.send).run()
    except Exception:
        logger.exception("the engine loop failed; requests in flight are lost")
        return 1


def _say_alive(connection: Connection) -> None:
    while True:
        connection.send(Alive())
        time.sleep(ALIVE_S)
