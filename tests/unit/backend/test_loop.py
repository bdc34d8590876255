"""The engine loop, a turn at a time."""

from __future__ import annotations

import pytest
from numpy import float32
from numpy.typing import NDArray

from ernie_backend.engine.engine import Engine
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.request.step_plan import SchedulePlan
from ernie_backend.service.engine_loop import EngineLoop, Inbox
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_wire.messages import Cancel, Heartbeat, Message, Output, Outputs
from fakes.sequences import make_request, reference_sampler
from fakes.token_hash_model import TokenHashRunner, continuation


class _BrokenRunner(TokenHashRunner):
    def logits(self, plan: SchedulePlan) -> NDArray[float32]:
        raise RuntimeError("device fault")


def _loop(runner: TokenHashRunner) -> tuple[EngineLoop, Inbox, list[Message]]:
    engine = Engine(runner, BlockManager(20, 2), SchedulerLimits(4, 16, 9), reference_sampler(10))
    inbox, sent = Inbox(), list[Message]()
    return EngineLoop(engine, inbox, sent.append), inbox, sent


def test_a_turn_accepts_steps_and_sends_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ernie_backend.service.engine_loop.HEARTBEAT_S", 1000.0)
    loop, inbox, sent = _loop(TokenHashRunner(20, 2, 10))
    for name in ("a", "b", "cancelled"):
        inbox.put(make_request(name, (1, 2), 3))
    inbox.put(make_request("big", (1,) * 50, 2))
    inbox.put(Output("refused", error="invalid_value: no"))
    inbox.put(Cancel("cancelled"))
    loop.turn()
    made, beat = sent
    assert isinstance(made, Outputs)
    assert [output.request_id for output in made.outputs] == ["refused", "big", "a", "b"]
    assert made.outputs[2].token_ids == (continuation((1, 2), 1, 10)[0],)
    assert isinstance(beat, Heartbeat)
    assert (beat.running, beat.steps, beat.total_blocks) == (2, 1, 20)
    loop.turn()
    assert [type(message) for message in sent[2:]] == [Outputs], "heartbeats are rate-limited"
    loop.turn()
    beat, made = sent[3:]
    assert isinstance(made, Outputs)
    assert [output.finish_reason for output in made.outputs] == ["length", "length"]
    assert isinstance(beat, Heartbeat)
    assert (beat.running, beat.steps) == (0, 3), "sent before the last answers"


def test_an_idle_turn_waits_and_sends_a_heartbeat() -> None:
    loop, _, sent = _loop(TokenHashRunner(20, 2, 10))
    for _ in range(4):
        loop.turn()
    beats = [message for message in sent if isinstance(message, Heartbeat)]
    assert len(beats) == len(sent)
    assert 2 <= len(beats) <= 4
    assert beats[-1].steps == 0


def test_a_fault_of_the_model_is_raised() -> None:
    loop, inbox, _ = _loop(_BrokenRunner(20, 2, 10))
    inbox.put(make_request("a", (1, 2), 2))
    with pytest.raises(RuntimeError, match="device fault"):
        loop.turn()
