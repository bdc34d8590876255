"""``ernie-triton serve`` with ranks behind a real tritonserver: it answers, and survives the loss of one."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from e2e.serving import DATA, STOP_DEADLINE_S, Serving
from e2e.test_serve import FLAGS, complete
from free_ports import free_port


@pytest.fixture
def serving() -> Iterator[Serving]:
    running = Serving("serve", *FLAGS, "--tensor-parallel-size", "2")
    yield running
    running.close()


def test_two_ranks_answer_and_are_started_again_after_one_was_killed(serving: Serving) -> None:
    url = serving.wait_until_ready()
    with np.load(DATA / "dense.npz") as goldens:
        prompt, expected = goldens["row0.input_ids"].tolist(), goldens["row0.greedy"].tolist()
    assert complete(url) == expected
    (rank,) = serving.descendants("ernie_backend.parallel")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="null", max_retries=0) as client:
        stream = client.completions.create(
            model="null", prompt=prompt, max_tokens=1900, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        rank.kill()
        cause = re.escape(f"rank 1 (process {rank.pid}) was killed by SIGKILL")
        with pytest.raises(openai.APIError, match=f"the engine process ended: {cause}"):
            for _ in stream:
                pass
    assert complete(url) == expected
    serving.process.send_signal(signal.SIGTERM)
    assert serving.wait() == 0, serving.output
    assert serving.leftovers() == []


@pytest.mark.full
def test_two_machines_serve_one_model_and_meet_again_after_a_rank_was_killed() -> None:
    """Loopback addresses stand for the machines."""
    machines = ("--ips", "127.0.0.1,127.0.0.2", "--engine-worker-queue-port", str(free_port()))
    first, second = (
        Serving("serve", *FLAGS, "-tp", "2", *machines, environment={"PADDLE_TRAINER_ID": str(index)})
        for index in range(2)
    )
    try:
        url = first.wait_until_ready()
        with np.load(DATA / "dense.npz") as goldens:
            expected = goldens["row0.greedy"].tolist()
        assert complete(url) == expected
        (rank,) = second.descendants("ernie_backend.parallel")
        rank.kill()
        rank.wait(STOP_DEADLINE_S)
        assert complete(url) == expected
        second.process.send_signal(signal.SIGTERM)
        assert second.wait() == 0, second.output
        assert "Ranks 1 to 1 of 2 run here; the API is on 127.0.0.1" in second.output[0]
    finally:
        second.close()
        first.close()


def test_a_size_that_does_not_divide_the_heads_is_told_before_anything_starts() -> None:
    serving = Serving("serve", *FLAGS, "--tensor-parallel-size", "4")
    try:
        assert serving.wait() == 1
        assert re.search(r"tensor_parallel_size is 4, which does not divide .* 1, 2$", serving.output[-1])
    finally:
        serving.close()
