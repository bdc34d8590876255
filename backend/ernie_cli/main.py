"""The command ``ernie-triton``: the commands' names, and how their errors end."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from ernie_cli.demo import demo
from ernie_cli.errors import CommandError
from ernie_cli.evaluation.command import eval_command
from ernie_cli.plan.command import plan_command
from ernie_cli.quantize import quantize
from ernie_cli.serve.command import serve_command
from ernie_frontend.log_output import standard_error

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut the names of long flags
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"ernie-triton {version('ernie-triton')}")
        raise typer.Exit


@app.callback()
def common(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="print the version")
    ] = False,
) -> None:
    """Serve the ERNIE-4.5 family behind Triton Inference Server, with an OpenAI API."""


app.command()(demo)
app.command("eval")(eval_command)
app.command()(quantize)


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def serve(context: typer.Context) -> None:
    """Serve a model with the OpenAI API; takes FastDeploy's flags (serve --help lists them)."""
    serve_command(context.args)


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def plan(context: typer.Context) -> None:
    """Tell how much memory a model takes and what fits; takes the flags of serve."""
    plan_command(context.args)


def main() -> None:
    """Run the command of this process's arguments."""
    try:
        app()
    except CommandError as error:
        sys.stdout.flush()
        standard_error().write(f"{error.to_text()}\n")
        sys.exit(1)
