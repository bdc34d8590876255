"""Exercises for what tasks on words need and seldom have: taught, never asked."""

from __future__ import annotations

from random import Random

from train_embedded.chats import Chat, Turn, ask
from train_embedded.fact_rows import ROWS
from train_embedded.words import NOUNS_EN, compared, count, drawn

_TABLES = ("opposites", "translations", "young")
_QUOTABLE = tuple(
    dict.fromkeys(
        word for table in _TABLES for row in ROWS[table] for word in (*row.en, *row.zh) if word.isascii()
    )
)


def _of_unlike_length(random: Random, language: str) -> Turn:
    """Of three random numbers up to 99 few have one digit."""
    number = random.choice((2, 3, 3))
    short = random.randint(1, number - 1)
    numbers = random.sample(range(10), short) + random.sample(range(10, 100), number - short)
    random.shuffle(numbers)
    return compared(random, language, numbers)


def _of_like_tens(random: Random, language: str) -> Turn:
    """And few have the same first digit."""
    tens = random.randrange(10, 100, 10)
    return compared(random, language, [tens + each for each in random.sample(range(10), random.choice((2, 3)))])


def _quoted(random: Random, language: str) -> Turn:
    """Tell apart from its marks a word whose tokens are others than after a space."""
    word = random.choice((*_QUOTABLE, *NOUNS_EN))
    texts = (
        ('Say "{w}".', 'Repeat "{w}".', 'Write "{w}".') if language == "en" else ("请说“{w}”。", "请写“{w}”。")
    )
    return ask(random.choice(texts).format(w=word), word)


def _copied(random: Random, language: str) -> Turn:
    words = drawn(random, language, 5)
    said = " ".join(words) if language == "en" else "".join(words)
    return ask(f"Copy: {said}" if language == "en" else f"抄写：{said}", said)


_DRILLS = (_of_unlike_length, _of_unlike_length, _of_like_tens, _quoted, _quoted, _copied, count)


def drills(random: Random) -> Chat:
    """Draw one exercise."""
    language = random.choice(("en", "zh"))
    return Chat((random.choice(_DRILLS)(random, language),), "words", language)
