"""Reads the arguments of ``serve`` by the table of flags: values, notices, refusals.

This module must not know what is done with a value.
"""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ernie_cli.parameters.environment import VARIABLES
from ernie_cli.parameters.flag import Flag, NoEffect, Refused, Switch, Text, Words, normalized
from ernie_cli.parameters.table import FLAGS, GROUPS

_DESCRIPTION = Text(
    "Serve a model with the OpenAI API behind Triton. Takes FastDeploy's flags, with - or _.",
    "在 Triton 之后以 OpenAI API 提供模型服务。接受 FastDeploy 的参数，- 与 _ 均可。",
)


class UsageError(Exception):
    """The arguments cannot be read; the message is one line for the user."""


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def read_flags(arguments: Sequence[str]) -> dict[str, str]:
    """Return the values of the flags that were given, by the flags' names.

    Raises:
        UsageError: a flag is unknown, a value is outside its limits, or a flag is refused.
    """
    given: dict[str, Any] = {}
    parsed, unknown = _parser("en").parse_known_args([_dashed(each) for each in arguments])
    if unknown:
        raise UsageError(_unknown(unknown[0]))
    for name, flag in FLAGS.items():
        value = getattr(parsed, name, None)
        if value is not None:
            given[name] = ",".join(value) if isinstance(flag.kind, Words) else value
    for name in given:
        _check_refused(FLAGS[name], given)
    return given


def notices(given: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return a line for each flag and variable that was given and has no effect."""
    flags = [
        f"{name} has no effect here: {effect.why.en}"
        for name in given
        if isinstance(effect := FLAGS[name].effect, NoEffect)
    ]
    variables = [
        f"{variable.name} has no effect here: {variable.help.en}"
        for variable in VARIABLES
        if variable.is_noticed and environment.get(variable.name)
    ]
    return flags + variables


def help_text(language: str = "en") -> str:
    """Return the help in a language: ``en`` or ``zh``."""
    return _parser(language).format_help()


def _parser(language: str) -> _Parser:
    parser = _Parser(
        prog="ernie-triton serve",
        usage="ernie-triton serve --model DIRECTORY|ID [flags]",
        description=getattr(_DESCRIPTION, language),
        allow_abbrev=False,
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30),
    )
    for group in GROUPS:
        shown = parser.add_argument_group(getattr(group.title, language))
        for flag in group.flags:
            _add(shown, flag, language)
    return parser


def _add(group: argparse._ArgumentGroup, flag: Flag, language: str) -> None:
    names = [flag.name, *([flag.short] if flag.short else [])]
    about: dict[str, Any] = {"dest": flag.name, "help": _help(flag, language), "default": None}
    if isinstance(flag.kind, Switch):
        group.add_argument(*names, action="store_const", const="true", **about)
        if flag.kind.has_opposite:
            about["help"] = argparse.SUPPRESS
            group.add_argument(
                flag.name.replace("--", "--no-", 1), action="store_const", const="false", **about
            )
        return
    about |= {"type": flag.kind.read, "metavar": flag.kind.shown}
    if isinstance(flag.kind, Words):
        about |= {"action": "extend", "nargs": 1 if flag.kind.is_repeated else "+"}
    group.add_argument(*names, **about)


def _help(flag: Flag, language: str) -> str:
    text = f"{getattr(flag.help, language)} [{flag.default}]"
    if isinstance(flag.kind, Switch) and flag.kind.has_opposite:
        text += f"; {flag.name.replace('--', '--no-', 1)}"
    if isinstance(flag.effect, NoEffect):
        text += f"; no effect: {flag.effect.why.en}" if language == "en" else f"；无作用：{flag.effect.why.zh}"
    if isinstance(flag.effect, Refused):
        text += f"; {flag.effect.why.en}" if language == "en" else f"；{flag.effect.why.zh}"
    return text.replace("%", "%%")


def _dashed(argument: str) -> str:
    """Return a flag spelled with dashes; values are left alone."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return normalized(name) + equals + value


def _unknown(argument: str) -> str:
    if not argument.startswith("-"):
        return f"{argument!r} belongs to no flag; values with blanks need quotes"
    name = argument.partition("=")[0]
    nearest = max(FLAGS, key=lambda known: difflib.SequenceMatcher(None, name, known).ratio())
    return f"unknown flag {name}; the nearest known flag is {nearest}"


def _check_refused(flag: Flag, given: Mapping[str, str]) -> None:
    if not isinstance(flag.effect, Refused):
        return
    value = given[flag.name]
    if value not in [given.get(neutral, neutral) for neutral in flag.effect.neutral]:
        shown = flag.name if isinstance(flag.kind, Switch) else f"{flag.name} {value}"
        neutral = f"; takes only {' or '.join(flag.effect.neutral)}" if flag.effect.neutral else ""
        raise UsageError(f"{shown}: {flag.effect.why.en}{neutral}")
