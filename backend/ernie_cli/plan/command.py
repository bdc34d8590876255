"""The command ``ernie-triton plan``: arguments in, a plan of the memory out."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence

from ernie_backend.errors import StartError
from ernie_backend.planning.memory_plan import plan_memory
from ernie_backend.planning.suggestions import suggest_changes
from ernie_cli.errors import CommandError
from ernie_cli.flags.parser import help_text, is_help, parsed_flags, terminal_language
from ernie_cli.flags.plan import DESCRIPTION, PLAN_GROUPS, SHOWN_GROUP, USAGE
from ernie_cli.plan.report import Planned, lines, report
from ernie_cli.plan.request import plan_request
from ernie_frontend.log_output import print_result

MISFIT_STATUS = 1
NO_PLAN_STATUS = 2


def plan(arguments: Sequence[str]) -> int:
    """Print the plan of a service.

    Returns:
        The exit status: 0 if the model fits, 1 if it does not, 2 if there is no plan, because there is no such
        model, or it cannot be cut as requested.

    Raises:
        UsageError: the arguments are wrong.
    """
    if is_help(arguments):
        print_result(help_text(terminal_language(), (SHOWN_GROUP,), USAGE, DESCRIPTION).rstrip())
        return 0
    given = parsed_flags(arguments, PLAN_GROUPS)
    try:
        planned = _planned(given)
    except (CommandError, StartError) as error:
        sys.stderr.write(f"ernie-triton plan: {error.message}\n")
        return NO_PLAN_STATUS
    if "--json" in given:
        print_result(json.dumps(report(planned), indent=2))
    else:
        print_result("\n".join(lines(planned, shutil.get_terminal_size().columns)))
    return 0 if planned.plan.fits else MISFIT_STATUS


def _planned(given: Mapping[str, str]) -> Planned:
    request = plan_request(given)
    plan = plan_memory(request.shape, request.settings, request.device)
    composed = plan_memory(request.shape, request.settings, request.composed) if request.composed else None
    return Planned(request, plan, [] if plan.fits else suggest_changes(plan), composed)
