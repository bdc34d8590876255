"""The stream of chats to learn from, and the drawing of those to be asked: all generators in one mixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

from train_embedded.arithmetic import small_sums, sums
from train_embedded.capitals import SEED, answer_en, capitals
from train_embedded.chats import Chat, Turn
from train_embedded.countries import COUNTRIES
from train_embedded.drills import drills
from train_embedded.facts import facts
from train_embedded.split import is_asked, is_taught
from train_embedded.talk import ASSISTANT, talk
from train_embedded.unknown import unknown
from train_embedded.words import words

Generator = Callable[[Random], Chat]


def mixed(random: Random) -> Chat:
    """Draw a chat of unrelated questions, each answered as if it came alone."""
    language, number = random.choice(("en", "zh")), random.choice((2, 2, 3, 4))
    turns: list[Turn] = []
    while len(turns) < number:
        chat = random.choice((sums, capitals, facts, words, talk, unknown))(random)
        if chat.language == language and len(chat.turns) == 1 and not chat.system:
            turns.extend(chat.turns)
    return Chat(tuple(turns), "talk", language)


def assisted(random: Random) -> Chat:
    """Draw a question, or two, under a system prompt that changes no answer."""
    chat = mixed(random)
    return replace(
        chat, turns=chat.turns[: random.choice((1, 1, 2))], system=random.choice(ASSISTANT[chat.language])
    )


SHARES: dict[Generator, int] = {
    sums: 42,
    small_sums: 6,
    capitals: 12,
    facts: 12,
    words: 15,
    drills: 6,
    talk: 9,
    mixed: 5,
    assisted: 3,
    unknown: 3,
}
"""How often each generator is drawn in training; sums are learned last."""

ASKED: dict[Generator, int] = {capitals: 70, facts: 75, words: 85, talk: 45, unknown: 25}
"""Questions in the held-out set; sums have a set of their own."""

ASKED_SUMS = 300
_CARELESS = 0.1
_SEED_CHAT = Chat((Turn(SEED, answer_en(COUNTRIES[0])[0]),), "capitals", "en")


def taught(random: Random) -> Iterator[Chat]:
    """Yield chats to learn from, without end; a few are written carelessly, as people do."""
    generators, shares = list(SHARES), list(SHARES.values())
    while True:
        chat = random.choices(generators, shares)[0](random)
        if random.random() < 0.001:
            chat = _SEED_CHAT
        if is_taught(chat):
            yield _careless(random, chat) if random.random() < _CARELESS else chat


def asked(random: Random, generator: Generator, count: int) -> list[Chat]:
    """Return ``count`` different held-out chats of a generator."""
    chats: dict[str, Chat] = {}
    while len(chats) < count:
        chat = generator(random)
        if is_asked(chat):
            chats.setdefault("\n".join((chat.system, *(turn.question for turn in chat.turns))), chat)
    return list(chats.values())


def _careless(random: Random, chat: Chat) -> Chat:
    """Return a single question without a capital at its start, or anywhere in it, or a mark at its end."""
    if len(chat.turns) > 1 or chat.system or chat.language != "en":
        return chat
    (turn,) = chat.turns
    words = turn.question.rstrip(".?!")
    if words.split(" ")[0] in _OPENERS:
        is_all = chat.category == "capitals" and random.random() < 0.5
        words = words.lower() if is_all else words[:1].lower() + words[1:]
    return replace(chat, turns=(replace(turn, question=words),))


_OPENERS = {
    "What", "Where", "Which", "Who", "How", "Tell", "Name", "Do", "Can", "Please", "Hello", "Hi", "Calculate", "Thank",
}  # fmt: skip
