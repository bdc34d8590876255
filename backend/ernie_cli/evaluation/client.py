"""The client of an evaluation: asks an OpenAI API questions, several at once, greedily."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx

from ernie_cli.errors import CommandError
from ernie_cli.evaluation.question_sets import Question
from ernie_cli.evaluation.terminal_text import is_unicode, shown

_MAX_TOKENS = 128
_DEADLINE_S = 300.0
_CONNECT_S = 30.0
_MAX_REASON_CHARACTERS = 200
_MAX_PORT = 65535
_VISIBLE_ASCII = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Server:
    """An OpenAI API; checked before anything is sent.

    Attributes:
        url: its base, without ``/v1``.
        model: the model's name there.
        api_key: or None; never shown.

    Raises:
        CommandError: one of them cannot be sent; says which.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _is_url(self.url):
            raise CommandError(
                f"--url '{shown(self.url)}' is not http://HOST:PORT with a port of 1 to {_MAX_PORT}; "
                "give the server's, for example http://127.0.0.1:8188"
            )
        if not is_unicode(self.model):
            raise CommandError(f"--model '{shown(self.model)}' is not UTF-8 text; give the model's name there")
        if self.api_key is not None and not _VISIBLE_ASCII.fullmatch(self.api_key):
            raise CommandError(
                "--api-key must be of visible ASCII characters, without spaces; give the server's key"
            )


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError):
        return False
    return (
        url.scheme in ("http", "https") and bool(url.host) and (url.port is None or 0 < url.port <= _MAX_PORT)
    )


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
    body = {"model": server.model, "messages": question.messages, "temperature": 0, "max_tokens": _MAX_TOKENS}
    response = await client.post(f"{server.url}/v1/chat/completions", json=body)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        raise CommandError(
            f"{server.url} answers no question without its API key: status 401: {_reason(response)};"
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
        f"{server.url} does not answer with an OpenAI chat completion; give the --url of the OpenAI frontend"
    )


def _lost(server: Server, error: httpx.RequestError, answered: int, count: int) -> CommandError:
    """Return the error for a failed connection: there was no server, or it stopped answering."""
    cause = shown(str(error), _MAX_REASON_CHARACTERS) or type(error).__name__
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
    return shown(reason, _MAX_REASON_CHARACTERS) or "(nothing)"
