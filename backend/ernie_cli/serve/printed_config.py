"""``--print-config``: each value of a ``serve`` and where it came from.

The engine's values are what the engine itself makes of its parameters and of the model's config.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.errors import StartError
from ernie_backend.settings.engine_settings import EngineSettings
from ernie_backend.settings.kinds import JsonValues
from ernie_backend.settings.reader import read_settings
from ernie_cli.errors import CommandError
from ernie_cli.flags.environment import READ
from ernie_cli.flags.flag import Flag, Passed
from ernie_cli.flags.parameters import engine_parameters
from ernie_cli.flags.table import FLAGS

_SECRETS = ("FD_API_KEY", "HF_TOKEN", "ERNIE_GROUP_SECRET")
_HIDDEN = "(set)"
_OWN = ("model", "served_model_name")  # the engine derives these from the model


def engine_settings(directory: Path, parameters: Mapping[str, str]) -> EngineSettings:
    """Return what the engine makes of its parameters for the model in ``directory``.

    Raises:
        CommandError: it would refuse them.
    """
    try:
        config = ModelConfig.from_directory(directory)
        return read_settings({**parameters, "model": str(directory)}, config)
    except StartError as error:
        raise CommandError(error.message) from None


def printed_config(
    given: Mapping[str, str], directory: Path | None, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Return a line for each flag that is used here, and for each environment variable that is set.

    Args:
        given: the given flags.
        directory: of the model; None if it is not on this machine, so that its config.json is unknown.
        environment: the environment.
    """
    settings = engine_settings(directory, engine_parameters(given)).flat if directory else {}
    rows = [
        (flag.name, *_value_and_source(flag, given, settings))
        for flag in FLAGS.values()
        if isinstance(flag.effect, Passed) and flag.name != "--print-config"
    ]
    rows += [
        (name, _HIDDEN if name in _SECRETS else environment[name], "environment")
        for name in READ
        if environment.get(name)
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}" for name, value, source in rows]


def _value_and_source(flag: Flag, given: Mapping[str, str], settings: Mapping[str, Any]) -> tuple[str, str]:
    value, source = (given[flag.name], "flag") if flag.name in given else (flag.default, "default")
    if flag.is_secret and flag.name in given:
        value = _HIDDEN
    field = flag.effect.engine if isinstance(flag.effect, Passed) else None
    if field is None or field not in settings or field in _OWN:
        return value, source
    effective = _shown(settings[field])
    if isinstance(settings[field], JsonValues):  # what is given may leave keys out
        return effective or value, source
    if effective is None or effective == _shown(value):
        return effective or value, source
    is_in_words = source == "default" and not value.isdecimal()
    return effective, f"default ({value})" if is_in_words else f"{source} {value}, changed by config.json"


def _shown(value: object) -> str | None:
    """Return an engine's value as one would write it; None for one that is not set."""
    if value is None or value == "":
        return None
    if isinstance(value, JsonValues):
        return json.dumps(known) if (known := value.known) else None
    if isinstance(value, Enum):
        return str(value.value)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return {"true": "on", "false": "off"}.get(text, text)
