"""The command ``ernie-triton serve``: arguments in, a running service or a printed configuration out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ernie_cli.flags.parser import help_text, is_help, notices, read_flags, terminal_language
from ernie_cli.model.source import is_model_id, local_model
from ernie_cli.presets.rows import ROWS
from ernie_cli.serve import service
from ernie_cli.serve.printed_config import printed_config
from ernie_cli.serve.settings import ServeSettings
from ernie_frontend.arguments import UsageError
from ernie_frontend.log_output import print_line
from ernie_frontend.middleware.api_keys import API_KEY_VARIABLE

_KEY_IS_SEEN = (
    "--api-key is visible in the list of processes to every user; --api-key-file and"
    f" ${API_KEY_VARIABLE} are not"
)


def serve(arguments: Sequence[str]) -> None:
    """Serve a model with the OpenAI API; takes FastDeploy's flags.

    Raises:
        UsageError: the arguments are wrong.
        CommandError: something could not be started, or ended.
    """
    if is_help(arguments):
        print_line(help_text(terminal_language()).rstrip())
        return
    given = read_flags(arguments)
    _check_is_no_row(given.get("--model", ""))
    settings = ServeSettings.from_flags(given)
    for notice in notices(given):
        sys.stderr.write(f"Notice: {notice}\n")
    if "--api-key" in given:
        sys.stderr.write(f"Notice: {_KEY_IS_SEEN}\n")
    if "--print-config" in given:
        _print_config(given, settings)
        return
    service.run_until_stopped(settings, _print_services)


def _check_is_no_row(model: str) -> None:
    row = ROWS.get(model.lower())
    if row is not None and not os.path.lexists(model):
        raise UsageError(
            f"{model} is a row of FastDeploy's table, not a model; its model is --model {row.hub_id}, "
            f"and ernie-triton plan {row.name} prints the whole command"
        )


def _print_config(given: dict[str, str], settings: ServeSettings) -> None:
    is_elsewhere = is_model_id(settings.model) and not os.path.lexists(settings.model)
    directory = None if is_elsewhere else local_model(settings.model).directory
    for line in printed_config(given, directory):
        print_line(line)
    if directory is None:
        print_line("(the model is not on this machine: its config.json may lower --max-model-len)")


async def _print_services(url: str) -> bool:
    print_line(f"Launching chat completion service at {url}/v1/chat/completions")
    print_line(f"Launching completion service at {url}/v1/completions")
    return True
