"""The process in which grammars are tried: it comes back after its end, and leaves with its owner."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys

import pytest

from ernie_backend.grammar.matcher import EMPTY, KILLED, Vocabulary
from ernie_backend.grammar.trial import Trial, _limit_memory

VOCABULARY = Vocabulary([bytes([byte]) for byte in range(255)] + [b"</s>"], [255], [255])


@pytest.fixture
def trial() -> Trial:
    return Trial(VOCABULARY)


def _process(trial: Trial) -> subprocess.Popen[bytes]:
    assert trial._process is not None
    return trial._process


def test_it_says_what_the_engine_would(trial: Trial) -> None:
    assert trial.error_of('start: "a" | "é"') == ""
    assert "unknown name" in trial.error_of("start: a")
    assert trial.error_of('start: ""') == EMPTY
    assert "schema is false" in trial.error_of("start: %json false")


def test_after_its_end_the_next_one_begins_anew(trial: Trial) -> None:
    assert trial.error_of('start: "a"') == ""
    first = _process(trial).pid
    os.kill(first, signal.SIGKILL)
    assert trial.error_of('start: "b"') == KILLED
    assert trial.error_of('start: "b"') == ""
    assert _process(trial).pid != first


def test_one_that_cannot_start_is_not_the_fault_of_the_grammar(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"at its start \(1\)"):
            trial.error_of('start: "a"')
    monkeypatch.undo()
    assert trial.error_of('start: "a"') == ""


def test_it_keeps_to_a_limit_of_memory_that_only_root_can_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 28, 1 << 28))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    _limit_memory()
    assert limits == [(1 << 28, 1 << 28)]


def test_it_ends_with_the_pipe_of_an_engine_that_was_killed(trial: Trial) -> None:
    trial.error_of('start: "a"')
    process = _process(trial)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0


def test_it_ends_with_its_owner() -> None:
    trial = Trial(VOCABULARY)
    trial.error_of('start: "a"')
    process = _process(trial)
    del trial
    gc.collect()
    assert process.returncode == -signal.SIGKILL
