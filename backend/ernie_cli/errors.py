"""The one error of the commands: a sentence for the person at the terminal."""

from __future__ import annotations


class CommandError(Exception):
    """A command cannot go on; the message says what is wrong and the way out. It ends with exit status 1."""
