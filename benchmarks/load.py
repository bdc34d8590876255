"""A load client for any OpenAI API: N clients, each sends its next request when the last answer is complete.

    .venv/bin/python benchmarks/load.py --url http://127.0.0.1:8188 --clients 8 --requests 64 \
        --prompt-tokens 128 --max-tokens 64 --output results.json

What the figures mean, all taken at the client with a monotonic clock:
    TTFT         from the moment before the request is sent to the first event that carries text or token ids.
    inter-token  from one such event to the next of the same request. An event may carry several tokens (a
                 server may put together what a slow reader has not taken), so it is divided by their number.
    output tokens/s   all output tokens, by the server's own count in ``usage``, over the time from the first
                 request sent to the last answer complete. Prompt tokens are not in it.
Each request has a connection of its own: llama-server closes one behind every stream without saying so, and a
request sent just then is lost.
Percentiles are of the nearest rank: a value that was measured. Requests before ``--warm-up`` are complete are
not counted. Prompts are random token ids, different for each request, so no prefix cache helps; ``--prompt``
sends one text instead. ``ignore_eos`` is set, so every answer has ``--max-tokens`` tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Workload:
    """What is sent.

    Attributes:
        url: base of the API, without ``/v1``.
        model: the ``model`` field.
        clients: how many requests are in flight at any time.
        requests: how many are counted.
        warm_up: how many are sent before, and not counted.
        prompt_tokens: length of a random prompt.
        vocab: random token ids are below it.
        max_tokens: length of every answer.
        prompt: a text instead of random token ids, or None.
        seed: of the random prompts.
    """

    url: str
    model: str
    clients: int
    requests: int
    warm_up: int
    prompt_tokens: int
    vocab: int
    max_tokens: int
    prompt: str | None
    seed: int


@dataclass
class Answer:
    """What one request took; times in seconds."""

    ttft_s: float = math.nan
    inter_token_s: list[float] = field(default_factory=list)
    output_tokens: int = 0
    error: str | None = None


def main() -> None:
    """Run the workload of the command line; the exit status is 1 if any request failed."""
    workload, output = _arguments()
    report = asyncio.run(run(workload))
    print(_table(report))
    if output is not None:
        output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if report["failed"] else 0)


async def run(workload: Workload) -> dict[str, Any]:
    """Send the workload; return the report."""
    limits = httpx.Limits(max_connections=workload.clients, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=workload.url, timeout=TIMEOUT_S, limits=limits, trust_env=False
    ) as client:
        generator = random.Random(workload.seed)
        await _closed_loop(client, workload, [_body(workload, generator) for _ in range(workload.warm_up)])
        bodies = [_body(workload, generator) for _ in range(workload.requests)]
        start = time.monotonic()
        answers = await _closed_loop(client, workload, bodies)
        return _report(workload, answers, time.monotonic() - start)


async def _closed_loop(
    client: httpx.AsyncClient, workload: Workload, bodies: list[dict[str, Any]]
) -> list[Answer]:
    waiting = iter(bodies)
    answers: list[Answer] = []

    async def one_client() -> None:
        answers.extend([await ask(client, body) for body in waiting])

    await asyncio.gather(*(one_client() for _ in range(workload.clients)))
    return answers


async def ask(client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
    """Send one streaming request and time its events."""
    answer = Answer()
    start = last = time.monotonic()
    try:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                text = (await response.aread()).decode(errors="replace")
                return Answer(error=f"HTTP {response.status_code}: {text[:200]}")
            async for line in _lines(response):
                event = _event(line)
                now = time.monotonic()
                if event.get("error"):
                    answer.error = json.dumps(event["error"])
                if event.get("usage"):
                    answer.output_tokens = event["usage"]["completion_tokens"]
                num_tokens = _num_tokens(event)
                if num_tokens and math.isnan(answer.ttft_s):
                    answer.ttft_s = now - start
                elif num_tokens:
                    answer.inter_token_s += [(now - last) / num_tokens] * num_tokens
                last = now if num_tokens else last
    except httpx.HTTPError as error:
        answer.error = f"{type(error).__name__}: {error}"
    if answer.error is None and answer.output_tokens == 0:
        answer.error = "the stream ended without usage"
    return answer


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """Yield the lines of an event stream; httpx would also cut at U+2028 and its like in texts."""
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.decode()


def _event(line: str) -> dict[str, Any]:
    data = line.removeprefix("data: ")
    if data == line or data == "[DONE]":
        return {}
    event: dict[str, Any] = json.loads(data)
    return event


def _num_tokens(event: dict[str, Any]) -> int:
    """Return how many tokens an event carries, by its token ids (ours, or vLLM's); 1 if it has only text."""
    count = 0
    for choice in event.get("choices", []):
        token_ids = choice.get("completion_token_ids") or choice.get("token_ids") or ()
        count += len(token_ids) or bool(choice.get("text"))
    return count


def _body(workload: Workload, generator: random.Random) -> dict[str, Any]:
    prompt: str | list[int]
    if workload.prompt is not None:
        prompt = workload.prompt
    else:
        prompt = [generator.randrange(10, workload.vocab) for _ in range(workload.prompt_tokens)]
    return {
        "model": workload.model,
        "prompt": prompt,
        "max_tokens": workload.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }


def _report(workload: Workload, answers: list[Answer], seconds: float) -> dict[str, Any]:
    good = [answer for answer in answers if answer.error is None]
    gaps = [gap for answer in good for gap in answer.inter_token_s]
    tokens = sum(answer.output_tokens for answer in good)
    return {
        "workload": asdict(workload),
        "requests": len(good),
        "failed": len(answers) - len(good),
        "errors": sorted({answer.error for answer in answers if answer.error is not None}),
        "seconds": seconds,
        "output_tokens": tokens,
        "output_tokens_per_s": tokens / seconds,
        "requests_per_s": len(good) / seconds,
        "ttft_ms": _percentiles([answer.ttft_s for answer in good], 50, 90, 99),
        "inter_token_ms": _percentiles(gaps, 50, 99, 100),
    }


def _percentiles(seconds: list[float], *ranks: int) -> dict[str, float | None]:
    """Return percentiles in milliseconds by the nearest rank; p100 is the maximum."""
    ordered = sorted(seconds)
    return {
        f"p{rank}": 1000 * ordered[max(0, math.ceil(rank / 100 * len(ordered)) - 1)] if ordered else None
        for rank in ranks
    }


def _table(report: dict[str, Any]) -> str:
    workload = report["workload"]
    rows = [
        ("clients", workload["clients"]),
        ("requests", f"{report['requests']} in {report['seconds']:.2f} s, {report['failed']} failed"),
        ("output tokens/s", f"{report['output_tokens_per_s']:.1f}"),
        ("TTFT ms", _line(report["ttft_ms"])),
        ("inter-token ms", _line(report["inter_token_ms"])),
        *(("error", error) for error in report["errors"]),
    ]
    return "\n".join(f"{name:16} {value}" for name, value in rows)


def _line(percentiles: dict[str, float | None]) -> str:
    names = {"p100": "max"}
    return "  ".join(
        f"{names.get(name, name)} {'-' if value is None else format(value, '.2f')}"
        for name, value in percentiles.items()
    )


def _arguments() -> tuple[Workload, Path | None]:
    parser = argparse.ArgumentParser(
        description="Load an OpenAI API; definitions of the figures are in the file."
    )
    parser.add_argument("--url", default="http://127.0.0.1:8188")
    parser.add_argument("--model", default="default")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--warm-up", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--vocab", type=int, default=256, help="random token ids are below it")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--prompt", help="a text instead of random token ids")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="also save the report as JSON")
    values = vars(parser.parse_args())
    output: Path | None = values.pop("output")
    return Workload(**values), output


if __name__ == "__main__":
    main()
