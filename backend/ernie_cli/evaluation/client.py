"""The client of an evaluation: asks an OpenAI API questions, several at once, greedily."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from ernie_cli.errors import CommandError
from ernie_cli.evaluation.question_sets import Question
from ernie_cli.openai_server import DEADLINE_S, MAX_REASON_CHARACTERS, Server, connected, reason
from ernie_cli.terminal_text import shown

_MAX_TOKENS = 128


@dataclass(frozen=True)
class Answer:
    """A model's answer to one question, or a refusal.

    Attributes:
        text: the answer; "" if the question was refused.
        model: which model answered, by its own name; "" if it gives none, or refused.
        refusal: the server's reason; "" if the question was answered.
    """

    text: str = ""
    model: str = ""
    refusal: str = ""


async def ask_all(
    server: Server, questions: Sequence[Question], concurrency: int, on_answer: Callable[[], None]
) -> list[Answer]:
    """Return the answers, in the order of the questions; a refused question is answered by its refusal.

    Args:
        server: where they are sent.
        questions: each is a request of its own.
        concurrency: how many requests are in flight at any time.
        on_answer: called after each answer.

    Raises:
        CommandError: there is no server, it stopped answering, or it refuses the key; the rest is not asked.
    """
    answers: dict[int, Answer] = {}
    waiting = iter(range(len(questions)))

    async def one_client(client: httpx.AsyncClient) -> None:
        for number in waiting:
            answers[number] = await _ask(client, server, questions[number])
            on_answer()

    async with connected(server) as client:
        clients = [asyncio.create_task(one_client(client)) for _ in range(concurrency)]
        try:
            await asyncio.gather(*clients)
        except httpx.RequestError as error:
            raise _lost(server, error, len(answers), len(questions)) from None
        finally:
            for task in clients:
                task.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
    return [answers[number] for number in range(len(questions))]


async def _ask(client: httpx.AsyncClient, server: Server, question: Question) -> Answer:
    body = {"model": server.model, "messages": question.messages, "temperature": 0, "max_tokens": _MAX_TOKENS}
    response = await client.post(f"{server.url}/v1/chat/completions", json=body)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        raise CommandError(
            f"{server.url} answers no question without its API key: status 401: {reason(response)};"
            " give the key with --api-key-file, --api-key or $FD_API_KEY"
        )
    if response.status_code != httpx.codes.OK:
        return Answer(refusal=f"status {response.status_code}: {reason(response)}")
    try:
        completion = response.json()
        content = completion["choices"][0]["message"]["content"]
        model = completion.get("model")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _no_completion(server) from None
    if content is not None and not isinstance(content, str):
        raise _no_completion(server)
    return Answer(_sendable(content or ""), _sendable(model) if isinstance(model, str) else "")


def _sendable(text: str) -> str:
    """Return a text with lone surrogates, which JSON can hold and UTF-8 cannot, replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _no_completion(server: Server) -> CommandError:
    return CommandError(
        f"{server.url} does not answer with an OpenAI chat completion; give the --url of the OpenAI frontend"
    )


def _lost(server: Server, error: httpx.RequestError, answered: int, count: int) -> CommandError:
    """Return the error for a failed connection: there was no server, or it stopped answering."""
    cause = shown(str(error), MAX_REASON_CHARACTERS) or type(error).__name__
    if isinstance(error, httpx.ReadTimeout):
        cause = f"no answer within {DEADLINE_S:g} s"
    if not answered and isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return CommandError(
            f"no server at {server.url} ({cause}); start one with "
            '"ernie-triton serve --model DIRECTORY" or "make demo", or give its --url'
        )
    return CommandError(
        f"{server.url} stopped answering after {answered} of {count} questions ({cause}); see the server's log"
    )
