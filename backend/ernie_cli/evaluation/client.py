"""Asks questions of an OpenAI API, several at once, greedily.

This module must not know which answers are right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import httpx

from ernie_cli.errors import CommandError
from ernie_cli.evaluation.answer import Answer
from ernie_cli.evaluation.question_sets import Question
from ernie_cli.evaluation.server import Server
from ernie_cli.evaluation.terminal_text import shown

_MAX_TOKENS = 128
_DEADLINE_S = 300.0
_CONNECT_S = 30.0
_MOST_OF_REASON = 200


async def ask_all(
    server: Server, questions: Sequence[Question], concurrency: int, on_answer: Callable[[], None]
) -> list[Answer]:
    """Return the answers, in the order of the questions; a refused question is answered by its refusal.

    Args:
        server: who is asked.
        questions: each is a request of its own.
        concurrency: how many requests are in flight at any time.
        on_answer: called after each answer.

    Raises:
        CommandError: nobody listens there, the server stopped answering, or it refuses the key; what is left is
            not asked.
    """
    answers: dict[int, Answer] = {}
    waiting = iter(range(len(questions)))

    async def one_client(client: httpx.AsyncClient) -> None:
        for number in waiting:
            answers[number] = await _ask(client, server, questions[number])
            on_answer()

    async with _client(server) as client:
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


def _client(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        headers={} if server.api_key is None else {"Authorization": f"Bearer {server.api_key}"},
        timeout=httpx.Timeout(_DEADLINE_S, connect=_CONNECT_S),
        # Its own limit of 100 connections would hold back the others, whose time would run out meanwhile.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        trust_env=False,
    )


async def _ask(client: httpx.AsyncClient, server: Server, question: Question) -> Answer:
    body = {
        "model": server.model,
        "messages": question.messages,
        "temperature": 0,
        "max_tokens": _MAX_TOKENS,
    }
    response = await client.post(f"{server.url}/v1/chat/completions", json=body)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        raise CommandError(
            f"{server.url} takes no question without its API key: status 401: {_reason(response)};"
            " give the key with --api-key-file, --api-key or $FD_API_KEY"
        )
    if response.status_code != httpx.codes.OK:
        return Answer(refusal=f"status {response.status_code}: {_reason(response)}")
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
        f"{server.url} answers no OpenAI chat completion; give the --url of the OpenAI frontend"
    )


def _lost(server: Server, error: httpx.RequestError, answered: int, count: int) -> CommandError:
    """Return what to say of a connection that failed: nobody was there, or somebody was and is no more."""
    cause = shown(str(error), _MOST_OF_REASON) or type(error).__name__
    if isinstance(error, httpx.ReadTimeout):
        cause = f"no answer within {_DEADLINE_S:g} s"
    if not answered and isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return CommandError(
            f"no server at {server.url} ({cause}); start one with "
            '"ernie-triton serve --model DIRECTORY" or "make demo", or give its --url'
        )
    return CommandError(
        f"{server.url} stopped answering after {answered} of {count} questions ({cause}); see the server's log"
    )


def _reason(response: httpx.Response) -> str:
    """Return the message of an OpenAI error, or what came instead of one."""
    try:
        reason = str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        reason = response.text
    return shown(reason, _MOST_OF_REASON) or "(nothing)"
