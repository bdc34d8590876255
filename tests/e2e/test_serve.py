"""``ernie-triton serve`` for real: it answers, and it ends without a trace."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import openai
import psutil
import pytest

from support.paths import DATA
from support.serving import FLAGS, STOP_DEADLINE_S, Serving


@pytest.fixture
def serving() -> Iterator[Serving]:
    running = Serving("serve", *FLAGS)
    yield running
    running.close()


def complete(url: str, row: int = 0, max_tokens: int = 32) -> list[int]:
    """Return the greedy tokens after a golden prompt."""
    with np.load(DATA / "dense.npz") as goldens:
        prompt = goldens[f"row{row}.input_ids"].tolist()
    with openai.OpenAI(base_url=f"{url}/v1", api_key="null", max_retries=0) as client:
        answer = client.completions.create(
            model="null",
            prompt=prompt,
            max_tokens=max_tokens,
            temperature=0,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
    ids: list[int] = answer.model_dump()["choices"][0]["completion_token_ids"]
    return ids


def test_of_a_killed_serve_no_process_stays_and_the_next_one_removes_its_files(serving: Serving) -> None:
    """The next one answers the goldens, too, and leaves nothing after SIGTERM."""
    serving.wait_until_ready()
    started = serving.process.children(recursive=True)
    serving.process.kill()
    _, alive = psutil.wait_procs(started, STOP_DEADLINE_S)
    assert alive == []
    (left,) = serving.temporary.glob("ernie-triton-*")
    following = Serving("serve", *FLAGS, environment={"TMPDIR": str(serving.temporary)})
    try:
        url = following.wait_until_ready()
        assert not left.exists()
        with np.load(DATA / "dense.npz") as goldens:
            assert complete(url) == goldens["row0.greedy"].tolist()
        assert len(following.descendants("ernie_backend")) == 1
        assert_that_it_ends_well(following, url)
    finally:
        following.close()
    assert serving.leftovers() == [], "they had the same temporary directory"


def assert_that_it_ends_well(serving: Serving, url: str) -> None:
    """Send SIGTERM; nothing is left, and what was said is all."""
    serving.process.send_signal(signal.SIGTERM)
    assert serving.wait() == 0, serving.output
    assert serving.output[-1] == "Stopped."
    assert (
        "Stopping: answers under way get 10 s at most; a second Ctrl-C or signal ends at once."
        in serving.output
    )
    assert not any("Exit timeout expired" in line for line in serving.output), serving.output
    assert serving.leftovers() == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", urlsplit(url).port or 0)) != 0
