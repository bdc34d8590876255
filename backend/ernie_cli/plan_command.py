"""The command ``ernie-triton plan``: arguments in, a plan of the memory out.

This module must not know how memory is planned.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import typer

from ernie_backend.errors import StartError
from ernie_backend.memory.alternatives import nearest_fits
from ernie_backend.memory.memory_plan import plan_memory
from ernie_cli.command_line import UsageError, help_text, is_help, parsed_flags, terminal_language
from ernie_cli.errors import CommandError
from ernie_cli.plan_flags import DESCRIPTION, PLAN_GROUPS, SHOWN_GROUP, USAGE
from ernie_cli.plan_report import lines, report
from ernie_cli.plan_request import plan_request

MISFIT_STATUS = 1


def plan_command(arguments: Sequence[str]) -> None:
    """Print the plan of a service.

    Raises:
        typer.Exit: with status 2 if the arguments are wrong, with 1 if the model does not fit.
        CommandError: there is no such model, or it cannot be cut as asked.
    """
    if is_help(arguments):
        typer.echo(help_text(terminal_language(), (SHOWN_GROUP,), USAGE, DESCRIPTION), nl=False)
        return
    try:
        given = parsed_flags(arguments, PLAN_GROUPS)
    except UsageError as error:
        typer.echo(f"ernie-triton plan: {error}\n(ernie-triton plan --help lists the flags)", err=True)
        raise typer.Exit(2) from None
    request = plan_request(given)
    try:
        plan = plan_memory(request.shape, request.settings, request.device)
    except StartError as error:
        raise CommandError(error.message) from None
    alternatives = [] if plan.fits else nearest_fits(plan)
    if "--json" in given:
        typer.echo(json.dumps(report(request, plan, alternatives), indent=2))
    else:
        for line in lines(request, plan, alternatives):
            typer.echo(line)
    if not plan.fits:
        raise typer.Exit(MISFIT_STATUS)
