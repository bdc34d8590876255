"""``ernie-triton eval`` against the real frontend: what it sends, what it prints, and how it fails."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ernie_cli.errors import CommandError
from ernie_cli.main import app
from ernie_cli.ports import free_ports
from fakes.triton_grpc import FakeTriton, Inference, Response, ready_model, tell

pytest_plugins = ("fakes.frontend_server",)

NUMBERS = [str(number) for number in range(20)]


@pytest.fixture
def echo_set(tmp_path: Path) -> str:
    """A set whose right answers are the questions themselves, but for the last one's."""
    lines = [
        {
            "messages": [{"role": "system", "content": "Repeat."}, {"role": "user", "content": number}],
            "answers": [number if number != NUMBERS[-1] else "another"],
            "category": "numbers",
            "language": "en",
        }
        for number in NUMBERS
    ]
    file = tmp_path / "echo.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


async def repeat(inference: Inference) -> AsyncIterator[Response]:
    """Answer with the user's words; the earlier a request comes, the later its answer."""
    text = inference.messages["messages"][-1]["content"]
    await asyncio.sleep(0.01 * (len(NUMBERS) - int(text)))
    async for response in tell(inference, pieces=(text, ".")):
        yield response


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["eval", *arguments])


def test_answers_are_matched_to_their_questions_and_counted(
    frontend: str, triton: FakeTriton, echo_set: str
) -> None:
    triton.answer = repeat
    result = evaluate("--url", f"{frontend}/v1/", "--set", echo_set, "--concurrency", "20")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[2].split("|")[2:] == [" numbers  ", " en       ", "    19 ", " 20 ", " 95.0 ", ""]
    assert "19  said: '19.'  expected: another" in result.stdout
    assert lines[-1].startswith("20 questions in ")
    assert {inference.sampling["temperature"] for inference in triton.inferences} == {0}
    roles = [message["role"] for message in triton.inferences[0].messages["messages"]]
    assert roles == ["system", "user"]


def test_json(frontend: str, triton: FakeTriton, echo_set: str) -> None:
    triton.answer = repeat
    result = evaluate("--url", frontend, "--set", echo_set, "--json")
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["rows"][-1]["exact"] == 19
    assert [wrong["line"] for wrong in report["wrong"]] == [20]
    assert (report["url"], report["model"]) == (frontend, "default")


def test_no_more_at_once_than_asked_for(frontend: str, triton: FakeTriton, echo_set: str) -> None:
    running, most = 0, 0

    async def count(inference: Inference) -> AsyncIterator[Response]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        async for response in tell(inference):
            yield response

    triton.answer = count
    assert evaluate("--url", frontend, "--set", echo_set, "--concurrency", "3").exit_code == 0
    assert most == 3


def test_without_a_server_it_says_what_to_start(echo_set: str) -> None:
    (port,) = free_ports(1)
    error = evaluate("--url", f"http://127.0.0.1:{port}", "--set", echo_set).exception
    assert isinstance(error, CommandError)
    assert error.message.startswith(f"no server at http://127.0.0.1:{port} (")
    assert 'start one with "ernie-triton serve --model DIRECTORY" or "make demo"' in error.message


@pytest.mark.parametrize("url", ["127.0.0.1:8188", "nonsense", "http://"])
def test_a_url_that_is_none(url: str, echo_set: str) -> None:
    error = evaluate("--url", url, "--set", echo_set).exception
    assert isinstance(error, CommandError)
    assert "give its --url" in error.message


def test_a_refusal_ends_it_with_the_servers_words(frontend: str, triton: FakeTriton, echo_set: str) -> None:
    async def refuse(inference: Inference) -> AsyncIterator[Response]:
        yield "context_length_exceeded[messages]: 9 tokens are too many"

    triton.answer = refuse
    error = evaluate("--url", frontend, "--set", echo_set).exception
    assert isinstance(error, CommandError)
    assert "refused a question with status 400: 9 tokens are too many" in error.message


def test_the_model_is_named(frontend: str, triton: FakeTriton, echo_set: str) -> None:
    triton.models = {"first": ready_model(), "second": ready_model()}
    assert evaluate("--url", frontend, "--model", "second", "--set", echo_set).exit_code == 0
    asked = Counter(inference.model for inference in triton.inferences)
    # A request that the test before gave up may still arrive; it named no model.
    assert (asked["first"], asked["second"]) == (0, len(NUMBERS))


def test_a_server_with_a_key(
    run_frontend: Callable[..., AbstractContextManager[str]], triton: FakeTriton, echo_set: str
) -> None:
    triton.answer = repeat
    with run_frontend(triton.url, api_keys=("secret",)) as url:
        error = evaluate("--url", url, "--set", echo_set).exception
        assert isinstance(error, CommandError)
        assert "status 401" in error.message
        assert evaluate("--url", url, "--set", echo_set, "--api-key", "secret").exit_code == 0
