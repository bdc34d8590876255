"""The command ``ernie-triton eval``: asks a running server sets of questions and counts the exact answers."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from ernie_cli.errors import CommandError
from ernie_cli.evaluation.client import Server, ask_all
from ernie_cli.evaluation.question_sets import QuestionSet, read_sets
from ernie_cli.evaluation.report import (
    Outcome,
    answered_by,
    counted,
    refused_line,
    table,
    to_json,
    wrong_lines,
)
from ernie_cli.evaluation.terminal_text import shown
from ernie_cli.serve.settings import api_keys
from ernie_frontend.middleware.api_keys import NoKey, read_key_file

_MAX_WRONG_SHOWN = 5
_MAX_CONCURRENCY = 512
"""A frontend's default limit. Each request is a connection, and a process may often open no more than 1024."""


def eval_command(
    url: Annotated[str, typer.Option(help="base URL of the server")] = "http://127.0.0.1:8188",
    model: Annotated[str, typer.Option(help="the model's name there")] = "default",
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH",
            help="a .jsonl file of questions, or a directory of such files; may be repeated"
            " [default: in a checkout, benchmarks/evaluation]",
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=_MAX_CONCURRENCY, help="requests in flight")] = 8,
    api_key: Annotated[
        str | None, typer.Option(help="of a server that requires one; else the first of $FD_API_KEY")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="file of such keys, one a line, of which the first is taken")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, every wrong answer included")] = False,
) -> None:
    """Ask a running server sets of questions and print how many answers are exact."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # an interrupted evaluation has failed
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = Server(
        url.rstrip("/").removesuffix("/v1"), model, _first_key(api_key_file) if api_key is None else api_key
    )
    question_sets = read_sets(sets or ())
    begin = time.monotonic()
    outcomes = _ask(server, question_sets, concurrency)
    seconds = time.monotonic() - begin
    if all(outcome.answer.refusal for outcome in outcomes):
        raise CommandError(f"{server.url}: {refused_line(outcomes)}")
    if as_json:
        report = {"url": server.url, "model": model, "seconds": round(seconds, 1), **to_json(outcomes)}
        typer.echo(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        _print(outcomes, seconds)


def _first_key(file: Path | None) -> str | None:
    """Return a key of the file, else of the variable that the server takes its own keys from, else None.

    Raises:
        CommandError: the file, or the variable, holds no key.
    """
    if file is None:
        return next(iter(api_keys({})), None)
    try:
        return read_key_file(file)[0]
    except NoKey as error:
        raise CommandError(f"--api-key-file: {error}") from None


def _print(outcomes: Sequence[Outcome], seconds: float) -> None:
    for line in table(outcomes):
        typer.echo(line)
    if wrong := wrong_lines(outcomes, _MAX_WRONG_SHOWN):
        typer.echo("\nWrong answers:")
        for line in wrong:
            typer.echo(line)
    if refused := refused_line(outcomes):
        typer.echo(f"\n{refused}")
    models = ", ".join(map(shown, answered_by(outcomes))) or "a model without a name"
    typer.echo(f"\n{counted(len(outcomes))} in {seconds:.1f} s, answered by {models}")


def _ask(server: Server, question_sets: Sequence[QuestionSet], concurrency: int) -> list[Outcome]:
    asked = [(each.name, question) for each in question_sets for question in each.questions]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("asking", total=len(asked))
        answers = asyncio.run(
            ask_all(server, [question for _, question in asked], concurrency, lambda: progress.advance(task))
        )
    return [Outcome(name, question, answer) for (name, question), answer in zip(asked, answers, strict=True)]
