"""What is taught and what is held out: one rule for every generator, decided by the content alone.

A question is held out by its text without case and punctuation, a sum by its pair of operands, a chat of several
turns or with a system prompt by the whole of what is said to the model.
"""

from __future__ import annotations

from hashlib import sha256

from train_embedded.chats import Chat, plain

PRODUCT = "product "
"""How the keys of products begin."""
HELD_OUT = 20
"""Of 256 keys, so many are held out."""
HELD_OUT_PRODUCTS = 64
"""The same of products: of 45 keys in all, the other share would hold out two or three."""


def is_held(key: str) -> bool:
    """Return whether a key is held out; "" never is."""
    share = HELD_OUT_PRODUCTS if key.startswith(PRODUCT) else HELD_OUT
    return bool(key) and sha256(key.encode()).digest()[0] < share


def is_taught(chat: Chat) -> bool:
    """Return whether a chat may be trained on: nothing in it is held out."""
    return not any(is_held(turn.key) for turn in chat.turns) and not is_held(chat_key(chat))


def is_asked(chat: Chat) -> bool:
    """Return whether a chat may be in an evaluation set: its question is held out."""
    return is_held(chat_key(chat) or chat.turns[-1].key)


def chat_key(chat: Chat) -> str:
    """Return what a chat of several turns, or with a system prompt, is split by; "" for a single question."""
    if len(chat.turns) == 1 and not chat.system:
        return ""
    return "\n".join([plain(chat.system), *(plain(turn.question) for turn in chat.turns)])
