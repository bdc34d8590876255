"""``ernie-triton eval`` against the real frontend: what it sends, what it prints, and how it fails."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ernie_cli.errors import CommandError
from fakes.triton_grpc import FakeTriton, Inference, Response, ready_model, tell
from invoke import Result, invoke
from support.free_ports import free_port

pytest_plugins = ("support.frontend_server",)

NUMBERS = [str(number) for number in range(20)]


def written_set(file: Path, answers: dict[str, str]) -> str:
    """Write a set of questions and their right answers; return its name."""
    lines = [
        {
            "messages": [{"role": "system", "content": "Repeat."}, {"role": "user", "content": question}],
            "answers": [answer],
            "category": "numbers",
            "language": "en",
        }
        for question, answer in answers.items()
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


@pytest.fixture
def echo_set(tmp_path: Path) -> str:
    """A set whose right answers are the questions themselves, but for the last one's."""
    right = {number: number for number in NUMBERS} | {NUMBERS[-1]: "another"}
    return written_set(tmp_path / "echo.jsonl", right)


async def repeat(inference: Inference) -> AsyncIterator[Response]:
    """Answer with the user's words; the earlier a request comes, the later its answer."""
    text = inference.messages["messages"][-1]["content"]
    await asyncio.sleep(0.01 * (len(NUMBERS) - int(text)))
    async for response in tell(inference, pieces=(text, ".")):
        yield response


@contextmanager
def scripted_api(reply: Callable[[int], Any], last: int | None = None) -> Iterator[str]:
    """Run an HTTP server that answers each of ``NUMBERS`` with a JSON value, or with nothing where it is None.

    Before it answers the number ``last`` it stops listening. The order in which questions arrive is no matter.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = int(body["messages"][-1]["content"])
            value = reply(number)
            if number == last:
                server.shutdown()
                server.server_close()
            if value is None:
                return
            answer = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(30)


def completion(content: Any, model: Any = "tiny") -> dict[str, Any]:
    """Return the part of a chat completion that is read."""
    return {"model": model, "choices": [{"message": {"content": content}}]}


def evaluate(*arguments: str) -> Result:
    return invoke("eval", *arguments)


def failure(*arguments: str) -> str:
    """Return the message of the one-line error that an evaluation ends with."""
    error = evaluate(*arguments).exception
    assert isinstance(error, CommandError), repr(error)
    assert error.message.isprintable()
    return error.message


def test_answers_are_matched_to_their_questions_and_counted(
    frontend: str, triton: FakeTriton, echo_set: str
) -> None:
    triton.answer = repeat
    result = evaluate("--url", f"{frontend}/v1/", "--set", echo_set, "--concurrency", "20")
    assert result.exit_code == 0, result.stdout
    lines = result.stdout.splitlines()
    assert lines[2].split("|")[2:] == [" numbers  ", " en       ", "    19 ", " 20 ", " 95.0 ", ""]
    assert "19  said: '19.'  expected: another" in result.stdout
    assert lines[-1].startswith("20 questions in ")
    assert lines[-1].endswith(" s, answered by ernie-tiny")
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
    assert report["answered_by"] == ["ernie-tiny"]


def test_no_more_at_once_than_asked_for(frontend: str, triton: FakeTriton, echo_set: str) -> None:
    running, most = 0, 0
    three_are_here = asyncio.Event()

    async def count(inference: Inference) -> AsyncIterator[Response]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            three_are_here.set()
        await asyncio.wait_for(three_are_here.wait(), 60)
        await asyncio.sleep(0.02)
        running -= 1
        async for response in tell(inference):
            yield response

    triton.answer = count
    assert evaluate("--url", frontend, "--set", echo_set, "--concurrency", "3").exit_code == 0
    assert most == 3


def test_more_than_a_hundred_at_once(
    run_frontend: Callable[..., AbstractContextManager[str]], triton: FakeTriton, tmp_path: Path
) -> None:
    many, running = 150, 0
    all_are_here = asyncio.Event()

    async def wait_for_all(inference: Inference) -> AsyncIterator[Response]:
        nonlocal running
        running += 1
        if running == many:
            all_are_here.set()
        await asyncio.wait_for(all_are_here.wait(), 60)
        async for response in tell(inference):
            yield response

    triton.answer = wait_for_all
    name = written_set(tmp_path / "many.jsonl", {str(number): "Beijing" for number in range(many)})
    with run_frontend(triton.url, registry_ttl_s=0.0) as url:
        result = evaluate("--url", url, "--set", name, "--concurrency", str(many), "--json")
    assert json.loads(result.stdout)["rows"][-1]["exact"] == many
    assert evaluate("--concurrency", "513").exit_code == 2


def test_a_set_given_twice_is_asked_once(frontend: str, triton: FakeTriton, tmp_path: Path) -> None:
    name = written_set(tmp_path / "one.jsonl", {"Where?": "Beijing"})
    result = evaluate("--url", frontend, "--set", name, "--set", name)
    assert result.stdout.splitlines()[-1].startswith("1 question in ")


def test_without_a_server_it_says_what_to_start(echo_set: str) -> None:
    port = free_port()
    message = failure("--url", f"http://127.0.0.1:{port}", "--set", echo_set)
    assert f"http://127.0.0.1:{port} " in message
    assert "ernie-triton serve" in message


@pytest.mark.parametrize("answered", [0, 1, len(NUMBERS) - 1])
def test_a_server_that_dies_midway(answered: int, echo_set: str) -> None:
    with scripted_api(lambda number: completion("x") if number < answered else None) as url:
        message = failure("--url", url, "--set", echo_set, "--concurrency", "1")
    assert message.startswith(f"{url} ")
    assert f" {answered} of {len(NUMBERS)} " in message


def test_a_server_that_ends_midway_is_not_said_to_be_missing(echo_set: str) -> None:
    with scripted_api(lambda number: completion("x"), last=4) as url:
        message = failure("--url", url, "--set", echo_set, "--concurrency", "1")
    assert f" 5 of {len(NUMBERS)} " in message


@pytest.mark.parametrize("value", [[], {}, {"choices": []}, completion(["text"]), completion({"text": "x"})])
def test_what_is_no_chat_completion(value: Any, echo_set: str) -> None:
    with scripted_api(lambda number: value) as url:
        assert f"{url} " in failure("--url", url, "--set", echo_set, "--concurrency", "1")


@pytest.mark.parametrize("as_json", [True, False])
def test_an_answer_may_be_anything(as_json: bool, echo_set: str) -> None:
    """Even what cannot be written as UTF-8; and it reaches no terminal as it is."""
    with scripted_api(lambda number: completion(("\ud800", "\x1b[2J", None)[number % 3], "m\x1b")) as url:
        result = evaluate("--url", url, "--set", echo_set, *(["--json"] if as_json else []))
    assert result.exit_code == 0, result.stdout
    assert "\x1b" not in result.stdout
    assert ("\\u001b[2J" if as_json else r"said: '\x1b[2J'") in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--url", "nonsense"),
        ("--url", "http://127.0.0.1:99999"),
        ("--model", "\udcff"),
        ("--api-key", "sécret"),
        ("--api-key", "secret "),
        ("--set", ""),
    ],
)
def test_what_cannot_be_sent_is_refused_by_its_flag(arguments: tuple[str, str], echo_set: str) -> None:
    flag, _ = arguments
    assert flag in failure(*(("--set", echo_set) if flag != "--set" else ()), *arguments)


async def refuse_odd(inference: Inference) -> AsyncIterator[Response]:
    """Repeat even numbers and refuse odd ones."""
    text = inference.messages["messages"][-1]["content"]
    if int(text) % 2:
        yield "context_length_exceeded[messages]: 9 tokens are too many"
        return
    async for response in tell(inference, pieces=(text,)):
        yield response


def test_a_refused_question_is_wrong_and_the_others_are_asked(
    frontend: str, triton: FakeTriton, echo_set: str
) -> None:
    triton.answer = refuse_odd
    result = evaluate("--url", frontend, "--set", echo_set)
    assert result.exit_code == 0, result.stdout
    assert re.search("10 of 20 questions refused.* echo:2, with status 400: 9 tok", result.stdout)
    assert result.stdout.splitlines()[2].split("|")[4:6] == ["    10 ", " 20 "]


def test_where_all_are_refused_it_ends_with_the_servers_words(
    frontend: str, triton: FakeTriton, tmp_path: Path
) -> None:
    triton.answer = refuse_odd
    name = written_set(tmp_path / "odd.jsonl", {"1": "1", "3": "3"})
    message = failure("--url", frontend, "--set", name)
    assert "2 of 2 questions refused" in message
    assert message.endswith("odd:1, with status 400: 9 tokens are too many")


def test_the_model_is_named(frontend: str, triton: FakeTriton, echo_set: str) -> None:
    triton.models = {"first": ready_model(), "second": ready_model()}
    assert evaluate("--url", frontend, "--model", "second", "--set", echo_set).exit_code == 0
    asked = Counter(inference.model for inference in triton.inferences)
    # A request that the test before gave up may still arrive; it named no model.
    assert (asked["first"], asked["second"]) == (0, len(NUMBERS))


def test_a_server_with_a_key(
    run_frontend: Callable[..., AbstractContextManager[str]],
    triton: FakeTriton,
    echo_set: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    triton.answer = repeat
    monkeypatch.delenv("FD_API_KEY", raising=False)
    with run_frontend(triton.url, api_keys=("secret",)) as url:
        refusal = failure("--url", url, "--set", echo_set)
        assert "status 401" in refusal
        assert "--api-key-file" in refusal
        assert evaluate("--url", url, "--set", echo_set, "--api-key", "secret").exit_code == 0
        monkeypatch.setenv("FD_API_KEY", "secret,another")
        assert evaluate("--url", url, "--set", echo_set).exit_code == 0
        assert "status 401" in failure("--url", url, "--set", echo_set, "--api-key", "another")
        keys = tmp_path / "keys"
        keys.write_text("# of the server\n\nsecret\nanother\n")
        monkeypatch.setenv("FD_API_KEY", "another")
        assert evaluate("--url", url, "--set", echo_set, "--api-key-file", str(keys)).exit_code == 0
        keys.write_text("# none\n")
        assert "--api-key-file: " in failure("--url", url, "--set", echo_set, "--api-key-file", str(keys))


def test_a_wrong_key_ends_it_at_the_first_refusal(echo_set: str) -> None:
    asked = Counter[str]()

    class Guarded(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked["times"] += 1
            self.rfile.read(int(self.headers["Content-Length"]))  # unread, it would reset the connection
            self.send_error(401)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        failure("--url", url, "--set", echo_set, "--concurrency", "1", "--api-key", "wrong")
        server.shutdown()
    assert asked["times"] == 1
