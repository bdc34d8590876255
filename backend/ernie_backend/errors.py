"""The error that ends the engine process before it is ready; those of requests are in ``ernie_wire.errors``."""

from __future__ import annotations


class StartError(Exception):
    """The engine cannot start: wrong model directory, wrong setting, missing device.

    Attributes:
        message: one line for the log and the terminal: the file, tensor or setting, what was found and what was
            expected, and the way out.
        exit_signal: the signal that ended a rank, if that is the cause.
        layout: the same in lines, for a terminal; empty: the message is short.
    """

    def __init__(self, message: str, exit_signal: int | None = None, layout: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.exit_signal = exit_signal
        self.layout = layout
