"""The parser of the arguments of every command: argparse, with one-line errors that name the way out."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

_MIN_SIMILARITY = 0.68  # of a misspelled flag and the one that was meant


class UsageError(Exception):
    """The arguments cannot be read; the message is one line for the user."""


class Parser(argparse.ArgumentParser):
    """Parses the arguments of one command; raises UsageError instead of ending the process.

    Args:
        prog: the command, as one calls it.
        description: what it does.
        options: further arguments of ``ArgumentParser``.
    """

    def __init__(self, prog: str, description: str, **options: Any) -> None:  # noqa: ANN401
        options.setdefault("formatter_class", lambda prog: argparse.HelpFormatter(prog, max_help_position=30))
        super().__init__(prog=prog, description=description, allow_abbrev=False, **options)

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Return the values of all arguments."""
        parsed, others = self.read_known(arguments)
        if others:
            raise UsageError(unexpected(others[0], self._option_string_actions))
        return parsed

    def read_known(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Return the values of the arguments that are known, and the others."""
        parsed, others = self.parse_known_args([_dashed(each) for each in arguments])
        if "--" in others:  # what follows it is no flag; argparse may leave it among the others
            others.remove("--")
        return parsed, others

    def error(self, message: str) -> NoReturn:
        """Raise the error; that of a ``checked`` value is a sentence about the flag."""
        message = message.removeprefix("argument ").replace(": is ", " is ", 1).replace(": has ", " has ", 1)
        raise UsageError(message.replace("one argument", "one value; if it begins with -, write FLAG=VALUE"))


def checked(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a type of argparse that reads a value as ``read`` does, such as that of a ``Kind``."""

    def convert(text: str) -> Any:  # noqa: ANN401 - whatever ``read`` returns
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def unexpected(argument: str, known: Collection[str]) -> str:
    """Return the message about an argument that no command takes, with the nearest of the ``known`` flags."""
    if not argument.startswith("-"):
        return f"unexpected argument {argument!r}; values with spaces need quotes"
    name = argument.partition("=")[0]
    if name in known:
        return f"{name} after -- is not read as a flag"
    nearest = difflib.get_close_matches(name, known, 1, _MIN_SIMILARITY)
    return f"unknown flag {name}" + (f"; the nearest known flag is {nearest[0]}" if nearest else "")


def _dashed(argument: str) -> str:
    """Return a flag spelled with dashes; values are left alone."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value
