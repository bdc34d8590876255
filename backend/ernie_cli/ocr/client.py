"""The client of ``ocr``: has pages read, several at once; what fails for one page is that page's result."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from ernie_cli.errors import CommandError
from ernie_cli.ocr.pages import Page, UnreadablePage
from ernie_cli.ocr.tasks import Task
from ernie_cli.openai_server import Server, connected, reason

_BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
_MAX_TRIES = 20
_MAX_WAIT_S = 30.0


@dataclass(frozen=True)
class ReadingOptions:
    """How pages are read.

    Attributes:
        task: what is asked about each.
        max_tokens: of an answer.
        dpi: pixels per inch of the pages of a PDF.
    """

    task: Task
    max_tokens: int
    dpi: int


@dataclass(frozen=True)
class Reading:
    """What became of one page: an answer, or an error.

    Attributes:
        text: the answer.
        model: its name.
        finish_reason, stop_reason: why the answer ended.
        usage: of tokens.
        error: why there is no answer; "" if there is one.
    """

    text: str = ""
    model: str = ""
    finish_reason: str | None = None
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None
    error: str = ""


async def read_all(
    server: Server,
    pages: Sequence[Page],
    options: ReadingOptions,
    concurrency: int,
    on_reading: Callable[[Page, Reading], None],
) -> None:
    """Have pages read; each is handed on when it is, whatever became of it.

    Args:
        server: has the model.
        pages: each is a request of its own.
        options: of all pages.
        concurrency: how many requests are in flight at any time.
        on_reading: gets each page and its result.

    Raises:
        CommandError: there is no server, or it refuses the key; the rest is not read.
    """
    waiting = iter(pages)

    async def one_client(client: httpx.AsyncClient, drawing: asyncio.Lock) -> None:
        for page in waiting:
            try:
                async with drawing:  # PDFium is not safe for threads, and pictures take memory
                    url = await asyncio.to_thread(page.to_url, options.dpi)
                reading = await _read(client, server, url, options)
            except UnreadablePage as error:
                reading = Reading(error=str(error))
            on_reading(page, reading)

    async with connected(server) as client:
        lock = asyncio.Lock()
        clients = [asyncio.create_task(one_client(client, lock)) for _ in range(concurrency)]
        try:
            await asyncio.gather(*clients)
        finally:
            for each in clients:
                each.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def listed_architecture(server: Server) -> str | None:
    """Return the architecture of the model as the server lists it; None if it lists none, as other servers."""
    async with connected(server) as client:
        try:
            cards = (await client.get(f"{server.url}/v1/models")).json()["data"]
            listed = {card["id"]: card.get("architecture") for card in cards}
        except (httpx.RequestError, ValueError, LookupError, TypeError, AttributeError):
            return None  # why there is no answer is said of the first page
    architecture = next(iter(listed.values())) if len(listed) == 1 else listed.get(server.model)
    return architecture if isinstance(architecture, str) else None


async def _read(client: httpx.AsyncClient, server: Server, url: str, options: ReadingOptions) -> Reading:
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": options.task.prompt},
    ]
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": options.max_tokens,
        **options.task.fields,
    }
    try:
        response = await _answered(client, f"{server.url}/v1/chat/completions", body)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise CommandError(
            f"no server at {server.url} ({error}); what was read is kept, so run the command again"
        ) from None
    except httpx.RequestError as error:
        return Reading(error=str(error) or type(error).__name__)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        raise CommandError(
            f"{server.url} reads no page without its API key: {reason(response)}; "
            "give the key with --api-key-file, --api-key or $FD_API_KEY"
        )
    if response.status_code != httpx.codes.OK:
        return Reading(error=f"status {response.status_code}: {reason(response)}")
    return _reading(response)


async def _answered(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> httpx.Response:
    """Return the response; a server that has too much to do is asked again when it says."""
    response = await client.post(url, json=body)
    for _ in range(_MAX_TRIES):
        if response.status_code not in _BUSY:
            break
        after = response.headers.get("retry-after", "")
        await asyncio.sleep(min(int(after) if re.fullmatch(r"\d{1,9}", after) else 1.0, _MAX_WAIT_S))
        response = await client.post(url, json=body)
    return response


def _reading(response: httpx.Response) -> Reading:
    try:
        answer = response.json()
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        return Reading(
            text=str(text or "").encode("utf-8", "replace").decode(),
            model=str(answer.get("model") or ""),
            finish_reason=choice.get("finish_reason"),
            stop_reason=choice.get("stop_reason"),
            usage=answer.get("usage"),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return Reading(error="what came is not an OpenAI chat completion")
