"""Asks questions of an OpenAI API, several at once, greedily.

This module must not know which answers are right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from ernie_cli.errors import CommandError
from ernie_cli.evaluation.question_sets import Question

_MAX_TOKENS = 128
_DEADLINE_S = 300.0


@dataclass(frozen=True)
class Server:
    """Who is asked.

    Attributes:
        url: base of the API, without ``/v1``.
        model: the model's name there.
        api_key: or None.
    """

    url: str
    model: str
    api_key: str | None = None


async def ask_all(
    server: Server, questions: Sequence[Question], concurrency: int, on_answer: Callable[[], None]
) -> list[str]:
    """Return the answers, in the order of the questions.

    Args:
        server: who is asked.
        questions: each is a request of its own.
        concurrency: how many requests are in flight at any time.
        on_answer: called after each answer.

    Raises:
        CommandError: nobody listens there, or a request was refused; the others are given up.
    """
    answers = [""] * len(questions)
    waiting = iter(range(len(questions)))

    async def one_client(client: httpx.AsyncClient) -> None:
        for number in waiting:
            answers[number] = await _ask(client, server, questions[number])
            on_answer()

    headers = {} if server.api_key is None else {"Authorization": f"Bearer {server.api_key}"}
    async with httpx.AsyncClient(headers=headers, timeout=_DEADLINE_S, trust_env=False) as client:
        clients = [asyncio.create_task(one_client(client)) for _ in range(concurrency)]
        try:
            await asyncio.gather(*clients)
        finally:
            for task in clients:
                task.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
    return answers


async def _ask(client: httpx.AsyncClient, server: Server, question: Question) -> str:
    body = {
        "model": server.model,
        "messages": question.messages,
        "temperature": 0,
        "max_tokens": _MAX_TOKENS,
    }
    try:
        response = await client.post(f"{server.url}/v1/chat/completions", json=body)
    except httpx.TimeoutException:
        raise CommandError(
            f"{server.url} did not answer within {_DEADLINE_S:g} s; see the server's log"
        ) from None
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise CommandError(
            f"no server at {server.url} ({error or type(error).__name__}); start one with "
            '"ernie-triton serve --model DIRECTORY" or "make demo", or give its --url'
        ) from None
    if response.status_code != httpx.codes.OK:
        raise CommandError(
            f"{server.url} refused a question with status {response.status_code}: {_reason(response)}"
        )
    try:
        return str(response.json()["choices"][0]["message"]["content"] or "")
    except (ValueError, LookupError, TypeError):
        raise CommandError(
            f"{server.url} answers no OpenAI chat completion; give the --url of the OpenAI frontend"
        ) from None


def _reason(response: httpx.Response) -> str:
    """Return the message of an OpenAI error, or what came instead of one."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return response.text[:200] or "(nothing)"
