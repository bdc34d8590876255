"""Chats as token ids and labels, in batches of about one length.

The ids are those that the server makes: the same template, the same tokenizer. Loss falls on the assistant's
tokens alone; where the template closes a turn, the label is the end token that stops the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from ernie_backend.chat.template import ChatTemplate
from ernie_backend.chat.tokenizer import Tokenizer
from train_embedded.chats import Chat
from train_embedded.mixture import taught
from train_embedded.tokenizer_model import EOS, TURN_END, TURN_START, UNK

IGNORED = -100
_POOL = 8192


@dataclass(frozen=True)
class Batch:
    """Examples of about one length, padded at the end.

    Attributes:
        ids: (examples, tokens), int64.
        labels: (examples, tokens), int64: the id that follows, or ``IGNORED``.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]


class Encoder:
    """Makes token ids of chats."""

    def __init__(self, directory: Path) -> None:
        """Read the tokenizer and the chat template of a model directory."""
        self.tokenizer = Tokenizer.from_directory(directory)
        self._template = ChatTemplate.from_directory(directory)
        self._start, self._end = (self._single(text) for text in (TURN_START, TURN_END))

    def prompt(self, chat: Chat) -> tuple[int, ...]:
        """Return the ids that the last question of a chat makes."""
        return self._encode({"messages": chat.messages()[:-1]})

    def example(self, chat: Chat) -> tuple[list[int], list[int]]:
        """Return ids of a whole chat and the labels at the same places."""
        options = {"add_generation_prompt": False}
        ids = self._encode({"messages": chat.messages(), "chat_template_kwargs": options})
        labels, answering = [IGNORED] * (len(ids) - 1), False
        for at, following in enumerate(ids[1:]):
            answering = (answering or ids[at] == self._start) and ids[at] != self._end
            if answering:
                labels[at] = EOS if following == self._end else following
        return list(ids[:-1]), labels

    def _encode(self, chat: Mapping[str, object]) -> tuple[int, ...]:
        rendered = self._template.render(chat)
        return self.tokenizer.encode(rendered.text, rendered.origins)

    def _single(self, text: str) -> int:
        (token_id,) = self.tokenizer.encode(text)
        return token_id


def batches(encoder: Encoder, random: Random, tokens: int) -> Iterator[Batch]:
    """Yield batches of about ``tokens`` tokens, padding included, without end."""
    chats = taught(random)
    while True:
        pool = sorted((encoder.example(chat) for chat in islice(chats, _POOL)), key=lambda each: len(each[0]))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for example in pool:
            if groups[-1] and len(example[0]) * (len(groups[-1]) + 1) > tokens:
                groups.append([])
            groups[-1].append(example)
        random.shuffle(groups)
        yield from map(_padded, groups)


def _padded(examples: list[tuple[list[int], list[int]]]) -> Batch:
    longest = max(len(ids) for ids, _ in examples)
    return Batch(
        np.array([ids + [UNK] * (longest - len(ids)) for ids, _ in examples], np.int64),
        np.array([labels + [IGNORED] * (longest - len(labels)) for _, labels in examples], np.int64),
    )
