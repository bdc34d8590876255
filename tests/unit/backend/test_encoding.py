"""Media beside the steps: who waits for what, what is encoded when, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ernie_backend.engine.encoding import ALONE_S
from ernie_backend.engine.engine import Engine
from ernie_backend.engine.request_state import RequestState
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.request.media import MediaItem
from ernie_backend.request.step_plan import SchedulePlan
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_wire.messages import Output
from fakes.media import PLACEHOLDER, HashEncoder, embedded, make_item, put_media
from fakes.sequences import make_request, reference_sampler
from fakes.token_hash_model import TokenHashRunner, continuation

VOCAB = 50
RED, BLUE, GREEN = (make_item(seed, 6) for seed in range(3))
PIECE_S, STEP_S = 1.0, 2.5


class House:
    """An engine whose clock counts pieces of the encoder's work and steps of the model."""

    def __init__(self, unreadable: Sequence[MediaItem] = (), num_blocks: int = 60, **limits: float) -> None:
        self.encoder = HashEncoder(item.digest for item in unreadable)
        self.runner = TokenHashRunner(num_blocks, 2, VOCAB, self.encoder)
        chosen = {"max_num_seqs": 8, "max_num_batched_tokens": 16, "max_num_waiting": 20, **limits}
        self.blocks = BlockManager(num_blocks, 2)
        self.engine = Engine(
            self.runner,
            self.blocks,
            SchedulerLimits(**chosen),  # type: ignore[arg-type]
            reference_sampler(VOCAB),
            self.clock,
            self.encoder,
        )
        self.answers: dict[str, list[int]] = {}
        self.errors: dict[str, str] = {}
        self.waited_s = 0.0

    def clock(self) -> float:
        return self.encoder.num_pieces * PIECE_S + len(self.runner.plans) * STEP_S + self.waited_s

    def ask(
        self, name: str, *items: MediaItem, before: int = 2, after: int = 3, max_tokens: int = 2
    ) -> Output | None:
        """Submit a request: text, each picture and a token after it, text."""
        request = _request(name, items, before, after, max_tokens)
        self.answers[name] = []
        return self.engine.submit(request)

    def step(self) -> dict[str, int]:
        """Do a step; return how many tokens of which requests it computed."""
        steps = len(self.runner.plans)
        for output in self.engine.step():
            self.answers[output.request_id] += output.token_ids
            if output.error is not None:
                self.errors[output.request_id] = output.error
        self.engine.check_integrity()
        plans: list[SchedulePlan] = self.runner.plans[steps:]
        return {chunk.request_id: len(chunk.token_ids) for plan in plans for chunk in plan.chunks}

    def run(self) -> None:
        for _ in range(500):
            if not self.engine.has_work:
                return
            self.step()
        raise AssertionError("requests do not end")

    @property
    def num_kept(self) -> int:
        return sum(len(output) for output in self.encoder.outputs.values())


def _request(name: str, items: Sequence[MediaItem], before: int, after: int, max_tokens: int) -> RequestState:
    ids, starts = list(range(1, before + 1)), []
    for item in items:
        starts.append(len(ids))
        ids += [PLACEHOLDER] * item.num_tokens + [7]
    request = make_request(name, (*ids, *range(20, 20 + after)), max_tokens)
    put_media(request.sequence, starts, items)
    return request


def _expected(name: str, *items: MediaItem, max_tokens: int = 2) -> list[int]:
    sequence = _request(name, items, 2, 3, max_tokens).sequence
    content = list(sequence.prompt_ids)
    for span in sequence.media:
        content[span.start : span.end] = embedded(sequence.media_items[span.index])
    return continuation(content, max_tokens, VOCAB)


def test_a_request_waits_without_blocks_for_its_picture_and_text_passes_it() -> None:
    house = House(max_num_seqs=4)
    house.ask("picture", RED)
    assert house.step() == {}
    assert (house.engine.heartbeat.running, house.engine.heartbeat.waiting) == (0, 1)
    assert house.engine.heartbeat.free_blocks == 60
    house.ask("text", max_tokens=40)
    assert house.step() == {"text": 5}
    while "picture" not in (computed := house.step()):
        assert computed == {"text": 1}
    assert computed == {"text": 1, "picture": 10}, "both begin with the same block"
    assert house.encoder.encoded == [RED.digest]
    house.run()
    assert house.answers["picture"] == _expected("picture", RED)


def test_beside_a_step_the_encoder_works_about_as_long_as_the_model_and_alone_a_short_while() -> None:
    house = House()
    house.ask("text", max_tokens=40)
    house.step()
    house.ask("picture", RED)
    done = []
    for _ in range(2):
        before = house.encoder.num_pieces
        house.step()
        done.append(house.encoder.num_pieces - before)
    assert done == [3, 3], "pieces of 1 s beside a step of 2.5 s"
    house.run()
    assert PIECE_S > ALONE_S
    house.ask("alone", BLUE)
    before = house.encoder.num_pieces
    house.step()  # the share of the last step
    house.step()
    assert house.encoder.num_pieces - before == 4, "one piece at a time, so that a cancel is seen"


def test_a_picture_of_several_requests_is_encoded_once_and_their_prompt_computed_once() -> None:
    house = House()
    for name in ("a", "b", "c"):
        house.ask(name, RED, BLUE)
    house.run()
    assert house.encoder.encoded == [RED.digest, BLUE.digest]
    assert {tuple(answer) for answer in house.answers.values()} == {tuple(_expected("a", RED, BLUE))}
    assert house.engine.heartbeat.prefix_cache_hits == 2 * 18


def test_what_the_prefix_cache_has_is_not_encoded() -> None:
    house = House(encoder_cache_tokens=0)
    house.ask("first", RED)
    house.run()
    house.ask("other", BLUE)
    house.run()
    assert RED.digest not in house.encoder.outputs
    house.ask("again", RED)
    house.run()
    assert house.encoder.encoded == [RED.digest, BLUE.digest]
    assert house.answers["again"] == house.answers["first"] == _expected("first", RED)


def test_a_request_of_many_pictures_holds_few_embeddings_at_a_time() -> None:
    items = [make_item(seed, 6) for seed in range(40)]
    house = House(num_blocks=200, encoder_cache_tokens=20)
    house.ask("album", *items)
    most = 0
    while house.engine.has_work:
        house.step()
        most = max(most, house.num_kept)
    assert most <= 20
    assert house.encoder.encoded == [item.digest for item in items], "in order, each once"
    assert house.answers["album"] == _expected("album", *items)


def test_small_pictures_make_no_small_steps() -> None:
    house = House(num_blocks=100, max_num_batched_tokens=40)
    house.ask("icons", *(make_item(seed, 1) for seed in range(30)))
    house.run()
    assert [plan.num_tokens for plan in house.runner.plans] == [40, 25, 1]


def test_a_cancelled_request_is_not_encoded_further() -> None:
    house = House()
    house.ask("gone", RED)
    house.ask("next", BLUE)
    house.step()
    pieces = house.encoder.num_pieces
    assert house.encoder.current == RED.digest
    house.engine.cancel("gone")
    assert house.encoder.current is None
    house.step()
    assert house.encoder.current == BLUE.digest
    house.run()
    assert house.encoder.encoded == [BLUE.digest]
    assert house.encoder.num_pieces == pieces + BLUE.num_tokens


def test_a_cancel_leaves_the_picture_to_others() -> None:
    house = House()
    for name in ("gone", "stays"):
        house.ask(name, RED)
    house.step()
    house.engine.cancel("gone")
    house.run()
    assert house.encoder.num_pieces == RED.num_tokens
    assert house.answers["stays"] == _expected("stays", RED)


def test_a_picture_that_cannot_be_encoded_ends_its_requests_alone() -> None:
    house = House(unreadable=[RED])
    house.ask("text", max_tokens=20)
    house.ask("good", BLUE)
    for name in ("bad", "bad too"):
        house.ask(name, GREEN, RED)
    house.run()
    assert sorted(house.errors) == ["bad", "bad too"]
    assert all(error.startswith("internal_error: ") for error in house.errors.values())
    assert house.answers["good"] == _expected("good", BLUE)
    assert len(house.answers["text"]) == 20


def test_a_preempted_request_encodes_again_what_is_gone() -> None:
    house = House(num_blocks=20, max_num_batched_tokens=30, encoder_cache_tokens=6)
    house.ask("old", RED, max_tokens=20)
    house.ask("young", BLUE, max_tokens=20)
    house.run()
    assert house.engine.heartbeat.preemptions > 0
    for name, item in (("old", RED), ("young", BLUE)):
        assert house.answers[name] == _expected(name, item, max_tokens=20)


def test_a_request_that_waits_for_its_picture_too_long_ends() -> None:
    house = House(max_waiting_time=3.0)
    house.ask("late", RED)
    house.step()
    house.waited_s = 10
    house.step()
    assert house.errors["late"].startswith("timeout: ")
    assert house.encoder.current is None


def test_more_media_than_may_be_in_work_are_refused_unless_there_are_no_others() -> None:
    house = House(max_media_bytes=RED.patches.nbytes)
    assert house.ask("large", RED, BLUE) is None
    refusal = house.ask("more", GREEN)
    assert refusal is not None
    assert refusal.error is not None
    assert refusal.error.startswith("queue_full(")
    assert house.ask("the same", BLUE, RED) is None
    assert house.ask("text") is None


@pytest.mark.parametrize("cache", [0, 6, 12])
def test_prompts_in_progress_do_not_hold_each_other_up_over_the_room_for_embeddings(cache: int) -> None:
    house = House(num_blocks=100, encoder_cache_tokens=cache, max_num_batched_tokens=5)
    pairs = [(RED, BLUE), (BLUE, GREEN), (GREEN, RED), (BLUE, RED)]
    for index, items in enumerate(pairs):
        house.ask(f"r{index}", *items)
    house.run()
    for index, items in enumerate(pairs):
        assert house.answers[f"r{index}"] == _expected("r", *items)
