"""Reads arguments by a table of flags: values, notices, refusals, help."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ernie_backend.settings.kinds import Switch
from ernie_cli.flags.fastdeploy import VARIABLES
from ernie_cli.flags.flag import Flag, Group, LocalizedText, NoEffect, Refused
from ernie_cli.flags.table import FLAGS, GROUPS
from ernie_frontend.arguments import Parser, UsageError, checked, unexpected

MODEL = "--model"
"""The flag whose value may stand alone."""
_DESCRIPTION = LocalizedText(
    "Serve a model with the OpenAI API behind Triton. Takes FastDeploy's flags, with - or _.",
    "在 Triton 之后以 OpenAI API 提供模型服务。接受 FastDeploy 的参数，- 与 _ 均可。",
)


def read_flags(arguments: Sequence[str]) -> dict[str, str]:
    """Return the values of the flags that were given, by the flags' names.

    Raises:
        UsageError: a flag is unknown, a value is outside its limits, or a flag is refused.
    """
    given = parsed_flags(arguments)
    for name in given:
        _check_refused(FLAGS[name], given)
    return given


def parsed_flags(arguments: Sequence[str], groups: Sequence[Group] = GROUPS) -> dict[str, str]:
    """Return the values of the flags that were given, be they refused or not.

    An argument without a flag is the model, if no flag gives that.

    Raises:
        UsageError: a flag is in none of the groups, a value is outside its limits, or there is an argument too
            many.
    """
    flags = {flag.name: flag for group in groups for flag in group.flags}
    parsed, others = _parser("en", groups).read_known(arguments)
    given: dict[str, str] = {}
    if others and not others[0].startswith("-") and getattr(parsed, MODEL) is None:
        given[MODEL] = others.pop(0)
    if others:
        raise UsageError(unexpected(others[0], flags))
    for name, flag in flags.items():
        value = getattr(parsed, name, None)
        if value is not None:
            given[name] = ",".join(value) if flag.many else value
    return given


def notices(given: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return a line for each flag and variable that was given and has no effect."""
    flags = {name: effect.why for name in given if isinstance(effect := FLAGS[name].effect, NoEffect)}
    variables = {name: why for name, why in VARIABLES.items() if environment.get(name)}
    return [f"{name} has no effect here: {why.en}" for name, why in {**flags, **variables}.items()]


def is_help(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for help, or are none at all."""
    return not arguments or any(each in ("-h", "--help") for each in arguments)


def terminal_language() -> str:
    """Return the language of the terminal, of those the help is written in."""
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG", "")
    return "zh" if locale.startswith("zh") else "en"


def help_text(
    language: str = "en",
    groups: Sequence[Group] = GROUPS,
    usage: str = "ernie-triton serve [--model] DIRECTORY|ID [flags]",
    description: LocalizedText = _DESCRIPTION,
) -> str:
    """Return the help on some flags in a language: ``en`` or ``zh``."""
    parser = _parser(language, groups)
    parser.usage, parser.description = usage, description.to(language)
    return parser.format_help()


def _parser(language: str, groups: Sequence[Group]) -> Parser:
    parser = Parser("", "", add_help=False)
    for group in groups:
        shown = parser.add_argument_group(group.title.to(language))
        for flag in group.flags:
            _add(shown, flag, language)
    return parser


def _add(group: argparse._ArgumentGroup, flag: Flag, language: str) -> None:
    names = [flag.name, *([flag.short] if flag.short else [])]
    about: dict[str, Any] = {"dest": flag.name, "help": _help(flag, language)}
    if isinstance(flag.kind, Switch):
        group.add_argument(*names, action="store_const", const="true", **about)
        if flag.opposite:
            about["help"] = argparse.SUPPRESS
            group.add_argument(flag.opposite, action="store_const", const="false", **about)
        return
    if flag.many:
        about |= {"action": "extend", "nargs": 1 if flag.many == "repeat" else "+"}
    group.add_argument(*names, type=checked(flag.read), metavar=flag.kind.shown, **about)


def _help(flag: Flag, language: str) -> str:
    parts = [flag.help.to(language), *([flag.opposite] if flag.opposite else [])]
    if isinstance(flag.effect, NoEffect | Refused):
        parts.append(flag.effect.why.to(language))
    else:
        parts[0] += f" [{flag.default}]"
    return ("；" if language == "zh" else "; ").join(parts).replace("%", "%%")


def _check_refused(flag: Flag, given: Mapping[str, str]) -> None:
    if not isinstance(flag.effect, Refused):
        return
    value = given[flag.name]
    if value not in [given.get(neutral, neutral) for neutral in flag.effect.neutral]:
        shown = flag.name if isinstance(flag.kind, Switch) else f"{flag.name} {value}"
        neutral = f"; takes only {' or '.join(flag.effect.neutral)}" if flag.effect.neutral else ""
        raise UsageError(f"{shown}: {flag.effect.why.en}{neutral}")
