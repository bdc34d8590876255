"""The command ``ernie-triton plan``: arguments in, a plan of the memory out.

This module must not know how memory is planned.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import typer

from ernie_backend.errors import StartError
from ernie_backend.memory.alternatives import nearest_fits
from ernie_backend.memory.devices import composed_p800
from ernie_backend.memory.memory_plan import MemoryPlan, plan_memory
from ernie_cli.command_line import UsageError, help_text, is_help, parsed_flags, terminal_language
from ernie_cli.errors import CommandError
from ernie_cli.plan_flags import DESCRIPTION, PLAN_GROUPS, SHOWN_GROUP, USAGE
from ernie_cli.plan_report import Answer, lines, report
from ernie_cli.plan_request import PlanRequest, plan_request

MISFIT_STATUS = 1


def _composed(request: PlanRequest) -> MemoryPlan | None:
    """Return the plan for a P800 as this project's own ops hold the model; None for another device."""
    if request.device.is_shared:
        return None
    device = composed_p800(request.device.memory_bytes)
    return plan_memory(request.shape, request.settings, device)


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
    answer = Answer(request, plan, [] if plan.fits else nearest_fits(plan), _composed(request))
    if "--json" in given:
        typer.echo(json.dumps(report(answer), indent=2))
    else:
        for line in lines(answer):
            typer.echo(line)
    if not plan.fits:
        raise typer.Exit(MISFIT_STATUS)
