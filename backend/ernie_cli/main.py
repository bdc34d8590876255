"""The command ``ernie-triton``: the commands' names, and how their errors end."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from ernie_cli.errors import CommandError
from ernie_frontend.arguments import Parser, UsageError
from ernie_frontend.log_output import discard_output, standard_error

COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("ernie_cli.demo:demo", "Serve the embedded model and ask it some questions."),
    "doctor": ("ernie_cli.doctor.command:doctor", "Check whether this machine can serve, and what it lacks."),
    "eval": (
        "ernie_cli.evaluation.command:evaluate",
        "Ask a running server questions, count exact answers.",
    ),
    "ocr": ("ernie_cli.ocr.command:ocr", "Have pages read by a running server, into Markdown and JSON."),
    "quantize": ("ernie_cli.quantize:quantize", "Write a quantized checkpoint that loads as it is."),
    "serve": ("ernie_cli.serve.command:serve", "Serve a model with the OpenAI API; takes FastDeploy's flags."),
    "plan": ("ernie_cli.plan.command:plan", "Tell how much memory a model takes; takes the flags of serve."),
}
"""Name -> the function that runs it, imported when it is called, and what it does."""
_INTERRUPTED = 130
_WRONG_USAGE = 2


def run(arguments: Sequence[str]) -> int:
    """Run a command, the first of the arguments; return its exit status.

    Raises:
        UsageError: the arguments cannot be read.
        CommandError: the command failed.
    """
    if not arguments or arguments[0] not in COMMANDS:
        _parser().read(arguments[:1])  # --help and --version end the process
        raise UsageError(f"COMMAND is missing; give one of {', '.join(COMMANDS)}")
    return import_command(arguments[0])(arguments[1:]) or 0


def import_command(name: str) -> Callable[[Sequence[str]], int | None]:
    """Return what runs the command ``name``, whose modules are imported now if they have not been."""
    module, function = COMMANDS[name][0].split(":")
    command: Callable[[Sequence[str]], int | None] = getattr(importlib.import_module(module), function)
    return command


def main() -> None:
    """Run the command of this process's arguments."""
    try:
        status = run(sys.argv[1:])
    except UsageError as error:
        name = " ".join(["ernie-triton", *(each for each in sys.argv[1:2] if each in COMMANDS)])
        sys.stderr.write(f"{name}: {error}\n({name} --help lists the flags)\n")
        status = _WRONG_USAGE
    except CommandError as error:
        sys.stdout.flush()
        standard_error().write(f"{error.to_text()}\n")
        status = 1
    except OSError as error:  # such as a full disk under standard output, or a path that is too long
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"ernie-triton: the system refuses: {error}\n")
        discard_output()
        status = 1
    except KeyboardInterrupt as interrupt:
        sys.stderr.write(" ".join(["Aborted.", *map(str, interrupt.args)]) + "\n")
        status = _INTERRUPTED
    sys.exit(status)


def _parser() -> Parser:
    width = max(map(len, COMMANDS)) + 2
    parser = Parser(
        "ernie-triton",
        "Serve the ERNIE-4.5 family behind Triton Inference Server, with an OpenAI API.",
        usage="ernie-triton COMMAND [arguments]",
        epilog="commands:\n" + "\n".join(f"  {name:{width}}{what}" for name, (_, what) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ernie-triton {version('ernie-triton')}")
    parser.add_argument(
        "command",
        nargs="?",
        choices=COMMANDS,
        metavar="COMMAND",
        help="one of these; COMMAND --help lists its arguments",
    )
    return parser
