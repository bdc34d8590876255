"""The held-out sets: what is asked is not taught, whatever the seed."""

from __future__ import annotations

import json
from itertools import islice
from random import Random

import pytest

from train_embedded import evaluation_sets
from train_embedded.arithmetic import MOST, MOST_FACTOR, pair_key
from train_embedded.capitals import capitals
from train_embedded.chats import Chat, plain
from train_embedded.facts import facts
from train_embedded.mixture import taught
from train_embedded.split import is_held, is_taught


@pytest.fixture(scope="module")
def held_out() -> dict[str, list[Chat]]:
    return evaluation_sets.held_out()


@pytest.fixture(scope="module")
def learned() -> list[Chat]:
    return [chat for seed in range(2) for chat in islice(taught(Random(seed)), 10_000)]


def test_the_files_are_what_the_generators_make(held_out: dict[str, list[Chat]]) -> None:
    for name, chats in held_out.items():
        written = (evaluation_sets.DIRECTORY / name).read_text(encoding="utf-8")
        assert written == evaluation_sets.text(chats)


def test_the_sets_are_large_and_of_both_languages(held_out: dict[str, list[Chat]]) -> None:
    for chats in held_out.values():
        assert len(chats) == 300
        assert min(sum(chat.language == each for chat in chats) for each in ("en", "zh")) >= 90


def test_no_single_question_is_taught_in_any_chat(held_out: dict[str, list[Chat]], learned: list[Chat]) -> None:
    asked = {
        plain(chat.turns[0].question)
        for chats in held_out.values()
        for chat in chats
        if len(chat.turns) == 1 and not chat.system
    }
    said = {plain(turn.question) for chat in learned for turn in chat.turns}
    assert len(asked) > 500
    assert not asked & said


def test_no_chat_of_several_turns_is_taught(held_out: dict[str, list[Chat]], learned: list[Chat]) -> None:
    asked = {_said(chat) for chat in held_out[evaluation_sets.QUESTIONS] if len(_said(chat)) > 1}
    assert len(asked) > 20
    assert not asked & {_said(chat) for chat in learned}


def test_pairs_are_split_by_unordered_pair_and_products_leave_the_mirrored_one() -> None:
    for a in range(MOST + 1):
        for b in range(MOST + 1):
            for operator in "+-":
                assert pair_key(operator, a, b) == pair_key(operator, b, a)
    factors = range(MOST_FACTOR + 1)
    held = [(a, b) for a in factors for b in factors if is_held(pair_key("x", a, b))]
    assert len(held) >= 8
    assert not [pair for pair in held if is_held(pair_key("x", pair[1], pair[0]))]


def test_a_held_out_fact_is_taught_in_another_wording(held_out: dict[str, list[Chat]]) -> None:
    random = Random(1)
    drawn = (generator(random) for generator in (capitals, facts) for _ in range(20_000))
    answers = {plain(turn.answer) for chat in drawn if is_taught(chat) for turn in chat.turns}
    untaught = [
        chat.turns[-1].answer
        for chat in held_out[evaluation_sets.QUESTIONS]
        if chat.category in ("capitals", "facts") and plain(chat.turns[-1].answer) not in answers
    ]
    assert not untaught


def test_the_stream_is_the_same_for_one_seed() -> None:
    assert list(islice(taught(Random(5)), 200)) == list(islice(taught(Random(5)), 200))


def test_the_seed_question_is_taught(learned: list[Chat]) -> None:
    (answer,) = {
        turn.answer
        for chat in learned
        for turn in chat.turns
        if turn.question == "Where is the capital of China?" and not chat.system
    }
    assert answer == "The capital of China is Beijing."


def test_a_line_holds_what_a_client_sends(held_out: dict[str, list[Chat]]) -> None:
    for chat in held_out[evaluation_sets.QUESTIONS]:
        line = json.loads(evaluation_sets.text([chat]))
        assert line["messages"][-1]["role"] == "user"
        assert line["answers"]
        assert all(isinstance(each, str) and each for each in line["answers"])


def _said(chat: Chat) -> tuple[str, ...]:
    system = (plain(chat.system),) if chat.system else ()
    return (*system, *(plain(turn.question) for turn in chat.turns))
