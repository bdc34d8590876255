"""The command ``ernie-triton plan``: arguments in, a plan of the memory out."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence

import typer

from ernie_backend.errors import StartError
from ernie_backend.planning.memory_plan import plan_memory
from ernie_backend.planning.suggestions import suggest_changes
from ernie_cli.errors import CommandError
from ernie_cli.flags.parser import UsageError, help_text, is_help, parsed_flags, terminal_language
from ernie_cli.flags.plan import DESCRIPTION, PLAN_GROUPS, SHOWN_GROUP, USAGE
from ernie_cli.plan.report import Planned, lines, report
from ernie_cli.plan.request import plan_request

MISFIT_STATUS = 1
NO_PLAN_STATUS = 2


def plan_command(arguments: Sequence[str]) -> None:
    """Print the plan of a service.

    Raises:
        typer.Exit: with status 1 if the model does not fit, with 2 if there is no plan: an argument is wrong,
            there is no such model, or it cannot be cut as asked.
    """
    if is_help(arguments):
        typer.echo(help_text(terminal_language(), (SHOWN_GROUP,), USAGE, DESCRIPTION), nl=False)
        return
    try:
        given = parsed_flags(arguments, PLAN_GROUPS)
        planned = _planned(given)
    except UsageError as error:
        raise _refusal(f"{error}\n(ernie-triton plan --help lists the flags)") from None
    except (CommandError, StartError) as error:
        raise _refusal(error.message) from None
    if "--json" in given:
        typer.echo(json.dumps(report(planned), indent=2))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for line in lines(planned, width):
            typer.echo(line)
    if not planned.plan.fits:
        raise typer.Exit(MISFIT_STATUS)


def _planned(given: Mapping[str, str]) -> Planned:
    request = plan_request(given)
    plan = plan_memory(request.shape, request.settings, request.device)
    composed = plan_memory(request.shape, request.settings, request.composed) if request.composed else None
    return Planned(request, plan, [] if plan.fits else suggest_changes(plan), composed)


def _refusal(message: str) -> typer.Exit:
    typer.echo(f"ernie-triton plan: {message}", err=True)
    return typer.Exit(NO_PLAN_STATUS)
