"""Runs a command of ``ernie-triton`` in this process."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

from ernie_cli.errors import CommandError
from ernie_cli.main import run
from ernie_frontend.arguments import UsageError


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it printed."""

    exit_code: int
    stdout: str
    exception: UsageError | CommandError | None = None


def invoke(*arguments: str) -> Result:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            return Result(run(arguments), output.getvalue())
        except UsageError as error:
            return Result(2, output.getvalue(), error)
        except CommandError as error:
            return Result(1, output.getvalue(), error)
