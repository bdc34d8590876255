"""``demo``: serve the embedded model on the loopback interface, ask it some questions, and go on serving."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ernie_backend.settings.kinds import Integer
from ernie_cli.checkout import checkout
from ernie_cli.errors import CommandError
from ernie_cli.processes.ports import LOOPBACK
from ernie_cli.serve.service import run_until_stopped
from ernie_cli.serve.settings import ServeSettings, api_keys
from ernie_frontend.arguments import Parser, checked
from ernie_frontend.log_output import print_line
from ernie_frontend.middleware.api_keys import API_KEY_VARIABLE

QUESTION = "Where is the capital of China?"
MORE_QUESTIONS = ("法国的首都是哪里？", "What is 17 + 25?")
"""For the embedded model, which learned such things."""
EMBEDDED_ENTRY = "ernie-tiny"
EMBEDDED_PARAMETERS = {"dtype": "float32"}
"""As in the entry's config.pbtxt, so that the demo and a plain Triton give the same answers."""
_ANSWER_DEADLINE_S = 300.0


def demo(arguments: Sequence[str]) -> None:
    """Serve the embedded model and ask it some questions through the openai client."""
    parser = Parser(
        "ernie-triton demo", "Serve the embedded model and ask it some questions through the openai client."
    )
    parser.add_argument("--model", metavar="DIRECTORY", help="a model directory instead of the embedded one")
    parser.add_argument(
        "--port",
        type=checked(Integer(0, 65535).read),
        default=8188,
        metavar="N",
        help="port on the loopback interface [%(default)s]",
    )
    parser.add_argument("--once", action="store_true", help="end after the answers")
    options = parser.read(arguments)
    keys, model = api_keys({}), options.model
    settings = ServeSettings(
        model=str(embedded_weights()) if model is None else model,
        host=LOOPBACK,
        port=options.port,
        api_keys=keys,
        name=EMBEDDED_ENTRY if model is None else None,
        engine=EMBEDDED_PARAMETERS if model is None else {},
        is_quiet=True,
    )
    print_line(f"Starting tritonserver and the OpenAI frontend with {model or EMBEDDED_ENTRY}.")
    questions = (QUESTION, *MORE_QUESTIONS) if model is None else (QUESTION,)
    ask = functools.partial(_ask, questions=questions, key=keys[0] if keys else None, once=options.once)
    run_until_stopped(settings, ask)


def embedded_weights() -> Path:
    """Return the directory of the embedded model's weights.

    Raises:
        CommandError: this is not a checkout, which alone has it.
    """
    root = checkout()
    if root is None:
        raise CommandError("the embedded model is in a checkout of ernie-triton only; give --model DIRECTORY")
    return root / "model_repository" / EMBEDDED_ENTRY / "weights"


async def _ask(url: str, *, questions: Sequence[str], key: str | None, once: bool) -> bool:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\nThrough the openai client to {url}/v1:", style="dim")
    for question in questions:
        console.print(f"\nQuestion: {question}", style="bold", markup=False)
        console.print("Answer: ", style="dim", end="")
        await _stream_answer(url, question, key, console)
    console.print("\nAsk it yourself:", style="dim")
    console.print(f"  {_curl_line(url, has_key=key is not None)}\n", markup=False)
    if not once:
        console.print("Serving until Ctrl-C.")
    return not once


async def _stream_answer(url: str, question: str, key: str | None, console: Console) -> None:
    """Print the answer as it comes.

    Raises:
        CommandError: openai is missing, the request failed, or nothing was answered.
    """
    try:
        import openai
    except ImportError:
        raise CommandError('the demo needs the openai client: run "make setup"') from None
    num_chunks = 0
    try:
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key=key or "null", max_retries=0, timeout=_ANSWER_DEADLINE_S
        ) as client:
            stream = await client.chat.completions.create(
                model="default", messages=[{"role": "user", "content": question}], stream=True
            )
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    num_chunks += 1
                    text = chunk.choices[0].delta.content
                    console.print(text, end="", style="bold cyan", markup=False, emoji=False)
    except openai.OpenAIError as error:
        raise CommandError(f"the chat failed: {error}") from None
    finally:
        console.print()
    if num_chunks == 0:
        raise CommandError("the model answered nothing")


def _curl_line(url: str, *, has_key: bool) -> str:
    body = f'{{"messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
    header = shlex.quote("Content-Type: application/json")
    key = f' -H "Authorization: Bearer ${{{API_KEY_VARIABLE}%%,*}}"' if has_key else ""
    return f"curl {url}/v1/chat/completions -H {header}{key} -d {shlex.quote(body)}"
