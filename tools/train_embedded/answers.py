"""Greedy answers of the network to chats, and how many are exact."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from ernie_cli.evaluation.question_sets import is_exact
from train_embedded.chats import Chat
from train_embedded.examples import Encoder
from train_embedded.network import Network
from train_embedded.tokenizer_model import EOS


@torch.no_grad()
def greedy(network: Network, prompts: Sequence[tuple[int, ...]], limits: Sequence[int]) -> list[list[int]]:
    """Return the greedy continuation of each prompt, without its end token, at most ``limits`` tokens each.

    Prompts of one length run together; nothing is cached between steps, as the answers are short.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    alike: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        alike[len(prompt)].append(index)
    for rows in alike.values():
        running, ids = rows, torch.tensor([prompts[index] for index in rows])
        for count in range(max(limits[index] for index in rows)):
            following = network.logits(network(ids)[:, -1]).argmax(-1)
            room = torch.tensor([count < limits[index] for index in running])
            ongoing = (following != EOS) & room
            running = [index for index, goes_on in zip(running, ongoing.tolist(), strict=True) if goes_on]
            if not running:
                break
            ids = torch.cat((ids[ongoing], following[ongoing, None]), 1)
            for index, token in zip(running, following[ongoing].tolist(), strict=True):
                answers[index].append(token)
    return answers


def exact(network: Network, encoder: Encoder, chats: Sequence[Chat]) -> list[bool]:
    """Return for each chat whether the last answer, given greedily, is one of those that count as right."""
    network.eval()
    # One token more than the longest right answer: what goes on after that is wrong.
    limits = [1 + max(map(len, map(encoder.tokenizer.encode, right(chat)))) for chat in chats]
    given = greedy(network, [encoder.prompt(chat) for chat in chats], limits)
    network.train()
    return [
        is_exact(encoder.tokenizer.decode(answer), right(chat))
        for answer, chat in zip(given, chats, strict=True)
    ]


def right(chat: Chat) -> tuple[str, ...]:
    """Return the answers that count as right."""
    last = chat.turns[-1]
    return (last.answer, *last.also)
