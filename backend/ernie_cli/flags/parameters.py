"""What the flags become for the engine: the parameters of a config.pbtxt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ernie_cli.errors import CommandError
from ernie_cli.flags.flag import Passed
from ernie_cli.flags.table import FLAGS


def engine_parameters(given: Mapping[str, str]) -> dict[str, str]:
    """Return the engine's settings among the given flags, as the parameters of a config.pbtxt."""
    parameters = {
        effect.engine: value
        for name, value in given.items()
        if isinstance(effect := FLAGS[name].effect, Passed) and effect.engine and name != "--model"
    }
    if parameters.get("max_num_waiting") == "-1":  # FastDeploy's word for its default
        del parameters["max_num_waiting"]
    if "chat_template" in parameters:
        parameters["chat_template"] = _template(parameters["chat_template"])
    return parameters


def _template(value: str) -> str:
    """Return a Jinja text as it is, and the path of a file as an absolute one."""
    if "{" in value:
        return value
    path = Path(value).expanduser()
    if not path.is_file():
        raise CommandError(f"--chat-template {value} is neither a file nor a Jinja text")
    return str(path.resolve())
