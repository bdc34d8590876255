"""The engine as an operating-system process: how it is started, observed and ended.

It is started by subprocess, not forked, because the stub has threads. It inherits only one end of a socket
pair: when the stub ends in whatever way, the socket ends, and the engine exits. It also asks the kernel to be
killed when the thread that started it ends, so that thread must stay alive.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ernie_wire.errors import InternalError
from ernie_wire.processes import Exit, ProcessStat

_SOON_S = 5.0

logger = logging.getLogger(__name__)


class EngineStartError(InternalError):
    """The engine could not start; the message is one line."""


@dataclass(frozen=True)
class EngineCommand:
    """How an engine process is started.

    Attributes:
        python: interpreter.
        settings: the engine's settings, see the entry's parameters.
        arguments: of the interpreter.
    """

    python: str
    settings: Mapping[str, str]
    arguments: tuple[str, ...] = ("-m", "ernie_backend")


class EngineProcess:
    """A running engine process and our end of its socket."""

    def __init__(self, command: EngineCommand) -> None:
        """Start the process.

        Raises:
            EngineStartError: the interpreter cannot be run, or there is no socket.
        """
        try:
            self.socket, theirs = socket.socketpair()
        except OSError as error:
            raise EngineStartError(f"no socket for the engine process: {error.strerror}") from None
        line = [command.python, *command.arguments, "--socket-fd", str(theirs.fileno())]
        line += ["--settings", json.dumps(dict(command.settings))]
        try:
            self._process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), env=engine_environment(os.environ)
            )
        except OSError as error:
            self.socket.close()
            raise EngineStartError(
                f"engine_python is {command.python!r}, which cannot be run: {error.strerror}"
            ) from None
        finally:
            theirs.close()
        self._seen_stopped_at = -math.inf
        logger.info("engine process %d started", self.pid)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def progress(self) -> tuple[int, ...]:
        """Return counters that grow while the process works: pages read, CPU ticks; empty after its end."""
        stat = self._stat()
        return stat.progress if stat else ()

    def note_stop(self) -> None:
        """Record whether the process is stopped (SIGSTOP), which is why it may soon be killed."""
        stat = self._stat()
        if stat and stat.state == "T":
            self._seen_stopped_at = time.monotonic()

    def _stat(self) -> ProcessStat | None:
        try:
            return ProcessStat.read(self.pid)
        except OSError:  # it has ended
            return None

    def end(self, grace_s: float) -> Exit:
        """Wait for the end of the process, then send SIGTERM and SIGKILL, ``grace_s`` apart."""
        for escalation in (signal.SIGTERM, signal.SIGKILL):
            if self._has_ended_within(grace_s):
                return self._how_it_ended(self._process.wait())
            logger.warning("engine process %d did not end in %g s: %s", self.pid, grace_s, escalation.name)
            self._process.send_signal(escalation)
        self._process.wait()
        return Exit(f"did not end by itself and was killed after {2 * grace_s:g} s")

    def _how_it_ended(self, status: int) -> Exit:
        was_stopped = time.monotonic() - self._seen_stopped_at < _SOON_S
        return (
            Exit("was stopped, and so killed") if was_stopped and status == -signal.SIGKILL else Exit.of(status)
        )

    def _has_ended_within(self, timeout_s: float) -> bool:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def abort(self) -> None:
        """End a hanging or stopped process by SIGABRT, upon which it dumps all stacks."""
        self._process.send_signal(signal.SIGABRT)
        self._process.send_signal(signal.SIGCONT)


def ready_notice(pid: int) -> str:
    """Return the log message of an engine that is ready, which ``ernie_cli.triton.loading`` looks for."""
    return f"engine process {pid} is ready"


def engine_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the engine, without Triton's directories on LD_LIBRARY_PATH.

    These have other versions of libraries that Paddle and others bring along.
    """
    cleaned = dict(environment)
    others = [
        entry
        for entry in cleaned.pop("LD_LIBRARY_PATH", "").split(":")
        if entry and not _is_triton_directory(Path(entry))
    ]
    return {**cleaned, "LD_LIBRARY_PATH": ":".join(others)} if others else cleaned


def _is_triton_directory(path: Path) -> bool:
    return (
        path.name == "nvidia_pytriton.libs"
        or path.is_relative_to("/opt/tritonserver")
        or any(path.glob("libtritonserver.so*"))
    )
