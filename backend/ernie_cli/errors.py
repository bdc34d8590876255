"""The error that ends a command."""

from __future__ import annotations


class CommandError(Exception):
    """A command fails, with exit status 1.

    Attributes:
        message: what is wrong and the way out; printed last.
        last_lines: the last output of the process at fault, unless it was shown; printed before the message.
        exit_signal: the signal that ended that process, or None.
        layout: the message in lines, which are printed in its place; empty: it is short.
    """

    def __init__(
        self,
        message: str,
        last_lines: tuple[str, ...] = (),
        exit_signal: int | None = None,
        layout: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.last_lines = last_lines
        self.exit_signal = exit_signal
        self.layout = layout

    def with_message(self, message: str) -> CommandError:
        """Return the error with another message."""
        return CommandError(message, self.last_lines, self.exit_signal)

    def to_text(self) -> str:
        """Return the lines for the terminal, the message last."""
        return "\n".join(
            [*(f"  | {line}" for line in self.last_lines), f"ernie-triton: {self.layout or self.message}"]
        )
