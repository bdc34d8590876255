"""The command ``ernie-triton eval``: asks a running server sets of questions and counts the exact answers."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import Progress

from ernie_cli.errors import CommandError
from ernie_cli.evaluation.client import ask_all
from ernie_cli.evaluation.question_sets import Question, read_sets
from ernie_cli.evaluation.report import (
    Outcome,
    answered_by,
    counted,
    refused_line,
    table,
    to_json,
    wrong_lines,
)
from ernie_cli.openai_server import Server, add_server_arguments, server_of
from ernie_cli.terminal_text import shown
from ernie_frontend.arguments import Parser
from ernie_frontend.log_output import print_result

_MAX_WRONG_SHOWN = 5


def evaluate(arguments: Sequence[str]) -> None:
    """Ask a running server sets of questions and print how many answers are exact."""
    options = _parser().read(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # an interrupted evaluation has failed
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = server_of(options)
    questions = read_sets(options.sets)
    begin = time.monotonic()
    outcomes = _ask(server, questions, options.concurrency)
    seconds = time.monotonic() - begin
    if all(outcome.answer.refusal for outcome in outcomes):
        raise CommandError(f"{server.url}: {refused_line(outcomes)}")
    if options.as_json:
        report = {"url": server.url, "model": options.model, "seconds": round(seconds, 1), **to_json(outcomes)}
        print_result(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        print_result("\n".join(_report_lines(outcomes, seconds)))


def _parser() -> Parser:
    parser = Parser(
        "ernie-triton eval", "Ask a running server sets of questions and print how many answers are exact."
    )
    add = parser.add_argument
    add_server_arguments(parser)
    add(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="PATH",
        help="a .jsonl file of questions, or a directory of such files; may be repeated"
        " [in a checkout, benchmarks/evaluation]",
    )
    add("--json", dest="as_json", action="store_true", help="print JSON, every wrong answer included")
    return parser


def _report_lines(outcomes: Sequence[Outcome], seconds: float) -> Iterator[str]:
    yield from table(outcomes)
    if wrong := wrong_lines(outcomes, _MAX_WRONG_SHOWN):
        yield "\nWrong answers:"
        yield from wrong
    if refused := refused_line(outcomes):
        yield f"\n{refused}"
    models = ", ".join(map(shown, answered_by(outcomes))) or "a model without a name"
    yield f"\n{counted(len(outcomes))} in {seconds:.1f} s, answered by {models}"


def _ask(server: Server, questions: Sequence[Question], concurrency: int) -> list[Outcome]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("asking", total=len(questions))
        answers = asyncio.run(ask_all(server, questions, concurrency, lambda: progress.advance(task)))
    return [Outcome(question, answer) for question, answer in zip(questions, answers, strict=True)]
