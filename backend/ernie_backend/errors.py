"""Errors that end the engine process before it is ready.

A request never meets them: errors of requests are in ``ernie_wire.errors``. This module must not know who reads
the message; it ends up in the log, in ``describe`` and on the screen of the person who started the server.
"""

from __future__ import annotations


class StartError(Exception):
    """The engine cannot start: wrong model directory, wrong setting, missing device.

    Attributes:
        message: one line that names the file, tensor or setting, what was found and expected, and the way out.
        exit_signal: the one that ended a rank, if that is the cause.
    """

    def __init__(self, message: str, exit_signal: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.exit_signal = exit_signal
