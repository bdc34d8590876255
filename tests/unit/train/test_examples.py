"""What is learned from: the ids that the server makes of the same chat, loss on the answers alone."""

from __future__ import annotations

from itertools import islice, pairwise
from random import Random

import pytest

from support.paths import REPOSITORY
from train_embedded.chats import Chat, Turn
from train_embedded.examples import IGNORED, Encoder, batches
from train_embedded.mixture import taught
from train_embedded.tokenizer_model import EOS, SPECIALS, TURN_END, UNK, VOCAB_SIZE

WEIGHTS = REPOSITORY / "ernie-tiny" / "weights"
TWO_TURNS = Chat((Turn("Hello", "Hi!"), Turn("2加3等于多少？", "5")), "talk", "en", system="You are Anna.")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(WEIGHTS)


@pytest.fixture
def chats() -> list[Chat]:
    chats = list(islice(taught(Random(11)), 400))
    assert len(chats) == 400
    return chats


def test_the_prompt_of_the_server_begins_the_example(encoder: Encoder, chats: list[Chat]) -> None:
    for chat in chats:
        ids, _ = encoder.example(chat)
        prompt = encoder.prompt(chat)
        assert ids[: len(prompt)] == list(prompt)


def test_the_labels_spell_the_answers_and_then_end(encoder: Encoder, chats: list[Chat]) -> None:
    for chat in [TWO_TURNS, *chats]:
        _, labels = encoder.example(chat)
        answers = "".join(turn.answer + "</s>" for turn in chat.turns)
        assert encoder.tokenizer.decode([each for each in labels if each != IGNORED]) == answers


def test_every_answer_of_a_chat_is_learned_and_no_question(encoder: Encoder) -> None:
    ids, labels = encoder.example(TWO_TURNS)
    assert labels.count(EOS) == len(TWO_TURNS.turns)
    end = encoder.tokenizer.encode(TURN_END)
    for at, (label, after) in enumerate(pairwise([*labels, EOS])):
        if label not in (IGNORED, EOS):
            assert ids[at + 1] == label
        if label == EOS and at + 1 < len(ids):
            assert (ids[at + 1],) == end
            assert after == IGNORED


def test_batches_hold_as_many_tokens_as_asked_and_pad_with_what_is_ignored(encoder: Encoder) -> None:
    made = list(islice(batches(encoder, Random(1), 2048), 8))
    assert len(made) == 8
    for batch in made:
        assert batch.ids.shape == batch.labels.shape
        assert batch.ids.size <= 2048
        assert (batch.labels[batch.ids == UNK] == IGNORED).all()
        assert (batch.labels != IGNORED).any(1).all()


def test_digits_are_tokens_of_their_own_and_texts_come_back(encoder: Encoder) -> None:
    tokenizer = encoder.tokenizer
    assert [tokenizer.decode([each]) for each in tokenizer.encode("1907")] == list("1907")
    for text in (" two  spaces ", "北京，你好！", "tab\there\n", "Ünïcödé 🙂", "User: x\nAssistant: y"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_one_token_each_and_the_vocabulary_is_full(encoder: Encoder) -> None:
    assert all(len(encoder.tokenizer.encode(each)) == 1 for each in SPECIALS)
    assert encoder.tokenizer.vocab_size == VOCAB_SIZE
