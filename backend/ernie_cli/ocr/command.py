"""The command ``ernie-triton ocr``: has a folder of pages read by a running server, into Markdown and JSON."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ernie_backend.settings.kinds import Integer
from ernie_cli.errors import CommandError
from ernie_cli.ocr.client import Reading, ReadingOptions, listed_architecture, read_all
from ernie_cli.ocr.pages import Page, find_pages
from ernie_cli.ocr.results import Results
from ernie_cli.ocr.tasks import TASKS
from ernie_cli.openai_server import Server, add_server_arguments, server_of
from ernie_cli.terminal_text import escaped, shown
from ernie_frontend.arguments import Parser, checked
from ernie_frontend.log_output import print_result

_MAX_SHOWN = 20
_ARCHITECTURE = "PaddleOCRVLForConditionalGeneration"
_MAX_TOKENS = 4096
_DPI = 144
_MOST = 1_000_000
_SECONDS_PER_MINUTE = 60


def ocr(arguments: Sequence[str]) -> int:
    """Have pages read and write the results; return 1 if a page could not be read."""
    options = _parser().read(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = server_of(options)
    pages = find_pages([Path(path) for path in options.paths])
    reading = ReadingOptions(TASKS[options.task], options.max_tokens, options.dpi)
    results = Results(options.output, options.task, reading)
    new = pages if options.again else [page for page in pages if not results.has(page)]
    begin = time.monotonic()
    try:
        failed = _read(server, new, results, options.concurrency)
    except KeyboardInterrupt:
        way = "the same command without --again" if options.again else "the same command"
        output = escaped(str(options.output))
        raise KeyboardInterrupt(f"Finished pages are kept in {output}; {way} reads the rest.") from None
    finally:
        results.write_document(pages)
    seconds = time.monotonic() - begin
    if len(failed) == len(pages):
        page, error = next(iter(failed.items()))
        raise CommandError(
            f"none of {len(pages)} pages could be read; the first, {escaped(page.name)}: {error}"
        )
    cut = {page: why for page in pages if page not in failed and (why := results.why_cut(page))}
    summary = _summary(len(pages), len(new), failed, cut, seconds)
    where = f"results in {escaped(str(options.output))}"
    print_result("\n".join([*_lines(failed), *_lines(cut, "cut: "), f"{summary}; {where}"]))
    return 1 if failed else 0


def _parser() -> Parser:
    parser = Parser(
        "ernie-triton ocr",
        "Have pages read by a running server with PaddleOCR-VL, and write Markdown and JSON of each.",
    )
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="an image, a PDF (extra [pdf]), or a folder of them")
    add("--output", type=Path, default=Path("ocr"), metavar="DIR", help="where the results go [%(default)s]")
    add("--task", choices=TASKS, default="ocr", help="what is asked: %(choices)s [%(default)s]", metavar="TASK")
    add_server_arguments(parser)
    number = checked(Integer(1, _MOST).read)
    add("--max-tokens", type=number, default=_MAX_TOKENS, metavar="N", help="of an answer [%(default)s]")
    add("--dpi", type=number, default=_DPI, metavar="N", help="pixels per inch of a PDF's pages [%(default)s]")
    add("--again", action="store_true", help="read also what is in the output already")
    return parser


def _read(server: Server, pages: Sequence[Page], results: Results, concurrency: int) -> dict[Page, str]:
    """Have pages read behind a progress bar; return the errors of those that could not be."""
    failed: dict[Page, str] = {}
    console = Console(stderr=True)
    architecture = asyncio.run(listed_architecture(server)) if pages else None
    if architecture not in (None, _ARCHITECTURE):
        sys.stderr.write(
            f"Notice: the model at {server.url} is {shown(str(architecture))}, not PaddleOCR-VL, "
            "whose requests these are; check what it writes\n"
        )
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(pages))

        def done(page: Page, reading: Reading) -> None:
            if reading.error:
                failed[page] = reading.error
            else:
                results.add(page, reading)
            progress.advance(bar)

        asyncio.run(read_all(server, pages, results.options, concurrency, done))
    return failed


def _lines(pages: Mapping[Page, str], what: str = "") -> list[str]:
    """Return a line for each page and what is said of it, as far as a terminal has room."""
    lines = [f"{escaped(page.name)}: {what}{shown(text, 200)}" for page, text in pages.items()]
    more = len(lines) - _MAX_SHOWN
    return [*lines[:_MAX_SHOWN], *([f"{what}({more} more)"] if more > 0 else [])]


def _summary(
    num_pages: int, num_new: int, failed: Mapping[Page, str], cut: Mapping[Page, str], seconds: float
) -> str:
    num_read = num_new - len(failed)
    rate = f", {num_read / seconds * _SECONDS_PER_MINUTE:.1f} a minute" if num_read else ""
    parts = [f"{num_read} of {num_pages} pages read in {seconds:.1f} s{rate}"]
    counts = {"read before": num_pages - num_new, "failed": len(failed), "cut before their end": len(cut)}
    return "; ".join([*parts, *(f"{number} {what}" for what, number in counts.items() if number)])
