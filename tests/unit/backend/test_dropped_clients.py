"""A thousand clients that connect and drop, in every phase of a request, leave nothing behind in the engine."""

from __future__ import annotations

import random

import pytest

from ernie_backend.engine.engine import Engine
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.service.engine_loop import EngineLoop, Inbox
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_wire.messages import Cancel, Message, Outputs
from fakes.sequences import make_request, reference_sampler
from fakes.token_hash_model import TokenHashRunner, continuation

VOCAB = 10
BLOCKS = 64
CLIENTS = 1000
STEPS_UNTIL_DROP = (0, 0, 1, 2, 3, 5, 8, 20)


class House:
    """An engine under its loop, with the messages that it sent."""

    def __init__(self, enable_prefix_caching: bool) -> None:
        self.blocks = BlockManager(BLOCKS, 4, enable_prefix_caching=enable_prefix_caching)
        limits = SchedulerLimits(4, 16, 2 * CLIENTS)
        runner = TokenHashRunner(BLOCKS, 4, VOCAB)
        self.engine = Engine(runner, self.blocks, limits, reference_sampler(VOCAB))
        self.inbox = Inbox()
        self.sent: list[Message] = []
        self.loop = EngineLoop(self.engine, self.inbox, self.sent.append)

    def answered(self) -> dict[str, tuple[int, ...]]:
        """Return the tokens of every request that got an output since the last call."""
        tokens: dict[str, tuple[int, ...]] = {}
        for message in self.sent:
            for output in message.outputs if isinstance(message, Outputs) else ():
                tokens[output.request_id] = tokens.get(output.request_id, ()) + output.token_ids
        self.sent.clear()
        return tokens


@pytest.mark.parametrize("enable_prefix_caching", [True, False])
def test_a_thousand_dropped_clients_leave_nothing_behind(enable_prefix_caching: bool) -> None:
    house, chance = House(enable_prefix_caching), random.Random(1)
    drops: dict[int, list[str]] = {}
    turn = clients = 0
    while clients < CLIENTS or drops:
        for _ in range(chance.randrange(5) if clients < CLIENTS else 0):
            name, length = f"client {clients}", chance.randrange(1, 60)
            prompt = [index % VOCAB if chance.random() < 0.98 else 0 for index in range(length)]
            house.inbox.put(make_request(name, tuple(prompt), 100))
            drops.setdefault(turn + chance.choice(STEPS_UNTIL_DROP), []).append(name)
            clients += 1
        dropped = drops.pop(turn, [])
        for name in dropped:
            house.inbox.put(Cancel(name))
        house.loop.turn()
        assert not set(house.answered()) & set(dropped), "nothing is sent after a cancel"
        house.engine.check_integrity()
        turn += 1
    beat = house.engine.heartbeat
    assert (beat.running, beat.waiting, beat.free_blocks) == (0, 0, BLOCKS)
    assert not house.engine.has_work
    assert not house.engine._requests
    assert not house.blocks._hashes
    house.inbox.put(make_request("after", (1, 2, 3), 20))
    answer: tuple[int, ...] = ()
    for _ in range(20):
        house.loop.turn()
        answer += house.answered().get("after", ())
    assert answer == tuple(continuation((1, 2, 3), 20, VOCAB))


@pytest.mark.parametrize("phase", ["queued", "prefilling", "decoding"])
def test_a_cancel_frees_blocks_before_the_next_step(phase: str) -> None:
    house = House(enable_prefix_caching=True)
    if phase == "queued":
        for index in range(4):
            house.inbox.put(make_request(f"ahead {index}", (index,), 100))
        house.loop.turn()
    house.inbox.put(make_request("client", tuple(index % 7 for index in range(40)), 100))
    house.loop.turn()
    while phase == "decoding" and "client" not in house.answered():
        house.loop.turn()
    owned = house.blocks.table("client")
    assert bool(owned) == (phase != "queued")
    free_before, steps_before = house.engine.heartbeat.free_blocks, house.engine.heartbeat.steps
    waiting_before = house.engine.heartbeat.waiting
    assert house.engine.cancel("client")
    beat = house.engine.heartbeat
    assert beat.steps == steps_before
    assert beat.free_blocks == free_before + len(owned)
    assert beat.waiting == waiting_before - (phase == "queued")
    house.engine.check_integrity()
