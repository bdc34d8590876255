"""``ernie-triton serve`` with ranks behind a real tritonserver: it answers, and survives the loss of one."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest

from e2e.test_serve import complete
from support.checkpoints.long_context import LONG_ANSWER, LONG_CONTEXT, with_long_context
from support.free_ports import free_port
from support.paths import DATA
from support.serving import FLAGS, START_DEADLINE_S, STOP_DEADLINE_S, Serving


def lasting_flags(directory: Path) -> tuple[str, ...]:
    """Flags of a service whose answers last until a test ends them."""
    model = with_long_context(directory)
    return ("--model", str(model), "--max-model-len", str(LONG_CONTEXT), *FLAGS[FLAGS.index("--port") :])


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    running = Serving("serve", *lasting_flags(tmp_path), "-tp", "2")
    yield running
    running.close()


def await_running(url: str, count: int) -> None:
    """Wait until so many requests are in the engine's batch."""
    until = time.monotonic() + START_DEADLINE_S
    while f"num_requests_running {count}.0\n" not in httpx.get(f"{url}/metrics").text:
        assert time.monotonic() < until
        time.sleep(0.05)


def assert_loss_is_told(url: str, rank: psutil.Process, number: signal.Signals, cause: str) -> None:
    """Signal a rank while two requests, one of them a stream, are in flight: both end with the cause."""
    long: dict[str, Any] = {"model": "null", "prompt": [7, 8, 9], "max_tokens": LONG_ANSWER}
    long["extra_body"] = {"ignore_eos": True}
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="null", max_retries=0) as client,
        ThreadPoolExecutor() as pool,
    ):
        stream = client.completions.create(stream=True, **long)
        whole = pool.submit(lambda: client.completions.create(**long))
        await_running(url, 2)
        rank.send_signal(number)
        with pytest.raises(openai.APIError, match=cause):
            for _ in stream:
                pass
        with pytest.raises(openai.APIError, match=cause):
            whole.result(START_DEADLINE_S)


@pytest.mark.full
def test_two_ranks_answer_and_are_started_again_after_one_was_killed(serving: Serving) -> None:
    url = serving.wait_until_ready()
    with np.load(DATA / "dense.npz") as goldens:
        expected = goldens["row0.greedy"].tolist()
    assert complete(url) == expected
    (rank,) = serving.descendants("ernie_backend.parallel")
    assert_loss_is_told(url, rank, signal.SIGKILL, rf"rank 1 \(process {rank.pid}\) was killed by SIGKILL")
    assert complete(url) == expected
    serving.process.send_signal(signal.SIGTERM)
    assert serving.wait() == 0, serving.output
    assert serving.leftovers() == []


@pytest.mark.full
def test_two_machines_serve_one_model_and_meet_again_after_a_rank_was_lost(tmp_path: Path) -> None:
    """Loopback addresses stand for the machines."""
    flags = lasting_flags(tmp_path)
    machines = ("--ips", "127.0.0.1,127.0.0.2", "--engine-worker-queue-port", str(free_port()))
    first, second = (
        Serving("serve", *flags, "-tp", "2", *machines, environment={"PADDLE_TRAINER_ID": str(index)})
        for index in range(2)
    )
    try:
        url = first.wait_until_ready()
        with np.load(DATA / "dense.npz") as goldens:
            expected = goldens["row0.greedy"].tolist()
        assert complete(url) == expected
        for number, how in (
            (signal.SIGKILL, "closed its connection"),
            (signal.SIGSTOP, "has been silent"),
        ):
            (rank,) = second.descendants("ernie_backend.parallel")
            assert_loss_is_told(url, rank, number, f"rank 1 of 127.0.0.2 {how}")
            rank.wait(STOP_DEADLINE_S)
            assert complete(url) == expected
        second.process.send_signal(signal.SIGTERM)
        assert second.wait() == 0, second.output
        assert "127.0.0.1" in second.output[0]
        assert any("SIGKILL" in line for line in second.output)
    finally:
        second.close()
        first.close()


def test_a_size_that_does_not_divide_the_heads_is_told_before_anything_starts() -> None:
    serving = Serving("serve", *FLAGS, "--tensor-parallel-size", "4")
    try:
        assert serving.wait() == 1
        assert re.search(r"tensor_parallel_size is 4.* 1, 2$", serving.output[-1])
    finally:
        serving.close()
