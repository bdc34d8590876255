"""The end of a frontend under work that takes longer than it may: nobody is cut off without a word."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from fakes.triton_grpc import FakeTriton, Inference, Response
from support import http
from support.waiting import eventually

pytest_plugins = ("support.frontend_server",)

WAIT_S = 60.0
DRAIN_S = 1


class Frontend:
    """A frontend process; its log is read as it comes."""

    def __init__(self, *arguments: str, wrapper: tuple[str, ...] = ()) -> None:
        command = [*wrapper, sys.executable, "-m", "ernie_frontend", "--host=127.0.0.1", "--port=0", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        first = self.process.stderr.readline()
        ready = re.search(r"http://127\.0\.0\.1:\d+", first)
        assert ready is not None, first
        self.url = ready[0]
        self.log: list[str] = []
        self._begun: list[httpx.Response] = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr or ()))
        self._reader.start()

    def post(self, stream: bool, prompt: str = "Hi") -> httpx.Response:
        """Return the whole answer; notes when it begins."""
        body = {"prompt": prompt, "stream": stream}
        with http.stream("POST", f"{self.url}/v1/completions", json=body) as answer:
            self._begun.append(answer)
            answer.read()
        return answer

    @property
    def num_begun(self) -> int:
        """How many answers have begun."""
        return len(self._begun)

    def end(self) -> list[str]:
        """Wait for the end; return the log."""
        assert self.process.wait(WAIT_S) == 0
        self._reader.join(WAIT_S)
        return self.log

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stderr is not None:
            self.process.stderr.close()


async def hang(inference: Inference) -> AsyncIterator[Response]:
    """Answer one piece, or to "queued" nothing, and then nothing more."""
    if inference.inputs["text_input"] != "queued":
        yield {"text_output": "Bei", "finish_reason": "", "num_input_tokens": 7, "num_output_tokens": 1}
    await asyncio.Event().wait()


def events(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200
    *sent, end = answer.text.split("\n\n")
    assert end == ""
    return [event.removeprefix("data: ") for event in sent]


@pytest.mark.parametrize(("workers", "number"), [(1, signal.SIGHUP), (2, signal.SIGTERM), (2, signal.SIGHUP)])
def test_what_takes_too_long_ends_with_an_error_that_says_so(
    triton: FakeTriton, workers: int, number: signal.Signals
) -> None:
    triton.answer = hang
    frontend = Frontend(
        f"--triton-url={triton.url}", f"--timeout-graceful-shutdown={DRAIN_S}", f"--workers={workers}"
    )
    kinds = [(True, "Hi"), (True, "Hi"), (True, "queued"), (False, "queued")]
    with ThreadPoolExecutor(len(kinds)) as pool:
        try:
            asked: list[Future[httpx.Response]] = [pool.submit(frontend.post, *kind) for kind in kinds]
            eventually(lambda: len(triton.inferences) == len(kinds))
            eventually(lambda: frontend.num_begun == 2)  # with their first piece; else they would be 503, too
            frontend.process.send_signal(number)
            answers = [each.result() for each in asked]
            log = frontend.end()
        finally:
            frontend.close()
    for stream in map(events, answers[:2]):
        assert json.loads(stream[-2])["error"]["code"] == "model_unavailable"
        assert stream[-1] == "[DONE]"
    for queued in answers[2:]:
        assert queued.status_code == 503
        assert int(queued.headers["Retry-After"]) > 0
        assert "stopping" in queued.json()["error"]["message"]
    told = [int(match[1]) for line in log if (match := re.search(r"(\d+) answers end with an error", line))]
    assert sum(told) == len(kinds)
    assert len(told) <= workers
    assert not any("Traceback" in line for line in log), log
    assert {triton.cancelled.get(timeout=WAIT_S) for _ in kinds} == {
        each.inputs["request_id"] for each in triton.inferences
    }


def test_what_ends_in_time_is_whole(triton: FakeTriton) -> None:
    is_going = asyncio.Event()

    async def wait(inference: Inference) -> AsyncIterator[Response]:
        counts = {"num_input_tokens": 7, "num_output_tokens": 1}
        yield {"text_output": "Bei", "finish_reason": "", **counts}
        while frontend.process.poll() is None and not any("under way" in line for line in frontend.log):
            await asyncio.sleep(0.01)
        is_going.set()
        yield {"text_output": "jing", "finish_reason": "stop", **counts}

    triton.answer = wait
    frontend = Frontend(f"--triton-url={triton.url}", f"--timeout-graceful-shutdown={WAIT_S:.0f}")
    with ThreadPoolExecutor(1) as pool:
        try:
            asked = pool.submit(frontend.post, True)
            eventually(lambda: bool(triton.inferences))
            frontend.process.send_signal(signal.SIGTERM)
            answer = events(asked.result())
            frontend.end()
        finally:
            frontend.close()
    assert is_going.is_set()
    assert [json.loads(event)["choices"][0]["text"] for event in answer[:-1]][:2] == ["Bei", "jing"]
    assert answer[-1] == "[DONE]"


def test_a_second_ctrl_c_ends_at_once(triton: FakeTriton) -> None:
    triton.answer = hang
    frontend = Frontend(f"--triton-url={triton.url}", f"--timeout-graceful-shutdown={3 * WAIT_S:.0f}")
    with ThreadPoolExecutor(1) as pool:
        try:
            asked = pool.submit(frontend.post, True)
            eventually(lambda: bool(triton.inferences))
            frontend.process.send_signal(signal.SIGINT)
            eventually(lambda: any("under way" in line for line in frontend.log))
            frontend.process.send_signal(signal.SIGINT)
            frontend.process.wait(WAIT_S)
            with pytest.raises(httpx.HTTPError):
                asked.result()
        finally:
            frontend.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_under_nohup_the_end_of_the_terminal_is_ignored(triton: FakeTriton, workers: int) -> None:
    frontend = Frontend(f"--triton-url={triton.url}", f"--workers={workers}", wrapper=("nohup",))
    try:
        assert frontend.post(stream=False).status_code == 200
        status = Path(f"/proc/{frontend.process.pid}/status").read_text(encoding="utf-8")
        ignored = re.search(r"SigIgn:\s*(\w+)", status)
        assert ignored is not None
        assert int(ignored[1], 16) & 1 << signal.SIGHUP - 1
    finally:
        frontend.process.send_signal(signal.SIGTERM)
        frontend.end()
        frontend.close()
