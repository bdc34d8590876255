"""The command ``ernie-triton``: the commands' names, and how their errors end."""

from __future__ import annotations

import sys

import typer

from ernie_cli.demo import demo
from ernie_cli.errors import CommandError
from ernie_cli.serve import serve

app = typer.Typer(
    help="Serve the ERNIE-4.5 family behind Triton Inference Server, with an OpenAI API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut the names of long flags
    context_settings={
        "help_option_names": ["-h", "--help"],
        # FastDeploy's users write either --max-model-len or --max_model_len.
        "token_normalize_func": lambda flag: flag.replace("_", "-"),
    },
)
app.command()(serve)
app.command()(demo)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except CommandError as error:
        sys.stdout.flush()
        sys.exit(error.to_text())


if __name__ == "__main__":
    main()
