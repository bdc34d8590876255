r"""Log probabilities in the formats of the two endpoints.

A token stands for bytes; those that are not whole characters are written ``bytes:\xNN...``.
"""

from __future__ import annotations

import codecs
from typing import Any

from ernie_wire.logprobs import Logprobs, TokenLogprobs, TopLogprob
from ernie_wire.messages import Output


def token_text(text_bytes: bytes) -> str:
    """Return the text of a token."""
    try:
        return text_bytes.decode()
    except UnicodeDecodeError:
        return _byte_text(text_bytes)


def _byte_text(text_bytes: bytes) -> str:
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in text_bytes)


def chat_logprobs(entries: Logprobs, num_top: int) -> dict[str, Any]:
    """Return OpenAI's ``logprobs`` of a chat choice."""
    return {
        "content": [
            {**_chat_entry(entry), "top_logprobs": [_chat_entry(each) for each in _likeliest(entry, num_top)]}
            for entry in entries
            if entry is not None
        ]
    }


def _likeliest(entry: TokenLogprobs, num_top: int) -> tuple[TopLogprob, ...]:
    """Return the most likely tokens of a position, most likely first; -1 for all."""
    return entry.top if num_top == -1 else entry.top[:num_top]


def _chat_entry(entry: TopLogprob) -> dict[str, Any]:
    return {
        "token": token_text(entry.text_bytes),
        "logprob": entry.logprob,
        "bytes": list(entry.text_bytes),
    }


def prompt_logprobs(entries: Logprobs, num_top: int) -> list[dict[str, Any] | None]:
    """Return vLLM's ``prompt_logprobs``: by id, each token of the prompt and the most likely ones there."""
    return [None if entry is None else _by_token_id(entry, num_top) for entry in entries]


def _by_token_id(entry: TokenLogprobs, num_top: int) -> dict[str, Any]:
    own = {str(entry.token_id): _ranked(entry, entry.rank)}
    top = {str(each.token_id): _ranked(each, rank) for rank, each in enumerate(_likeliest(entry, num_top), 1)}
    return own | top


def _ranked(entry: TopLogprob, rank: int) -> dict[str, Any]:
    return {"logprob": entry.logprob, "rank": rank, "decoded_token": token_text(entry.text_bytes)}


class CompletionLogprobs:
    """Makes OpenAI's ``logprobs`` of one completions choice, part by part, with continuous offsets.

    ``text_offset`` is the index, in the choice's text, of the character that contains the token's first byte.
    Bytes that are not a character are U+FFFD in the text, as in the engine's detokenizer.
    """

    def __init__(self, num_top: int) -> None:
        self._num_top = num_top
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def echo(self, first: Output) -> dict[str, Any]:
        """Return the part of the echoed prompt, whose first token has no probability."""
        entries, text = first.prompt_logprobs or (), first.prompt_text or ""
        beginning = _beginning(text, b"".join(entry.text_bytes for entry in entries if entry is not None))
        offset = self._advance(beginning)
        part = self.answer(entries[1:])
        self._offset = len(text)
        self._decoder.reset()  # no character spans prompt and answer
        none: list[None] = [None]
        return {
            "tokens": [token_text(beginning), *part["tokens"]],
            "token_logprobs": none + part["token_logprobs"],
            "top_logprobs": none + part["top_logprobs"],
            "text_offset": [offset, *part["text_offset"]],
        }

    def answer(self, entries: Logprobs) -> dict[str, Any]:
        """Return the part of new tokens."""
        known = [entry for entry in entries if entry is not None]
        return {
            "tokens": [token_text(entry.text_bytes) for entry in known],
            "token_logprobs": [entry.logprob for entry in known],
            "top_logprobs": [self._top(entry) for entry in known],
            "text_offset": [self._advance(b"" if entry.is_skipped else entry.text_bytes) for entry in known],
        }

    def _top(self, entry: TokenLogprobs) -> dict[str, float]:
        """Return the token and the most likely ones by text; of two with equal texts the likelier has it."""
        candidates: list[TopLogprob] = [entry]
        candidates += [each for each in _likeliest(entry, self._num_top) if each.token_id != entry.token_id]
        top: dict[str, float] = {}
        for each in sorted(candidates, key=lambda each: each.logprob, reverse=True):
            names = (token_text(each.text_bytes), _byte_text(each.text_bytes), f"token_id:{each.token_id}")
            top[next(name for name in names if name not in top)] = each.logprob
        return top

    def _advance(self, text_bytes: bytes) -> int:
        """Decode the bytes of the next token; return its offset."""
        if not text_bytes:
            return self._offset
        # Where the first byte's character is depends on whether the byte starts, continues or completes it: so
        # decode that byte alone, and see whether it is still pending.
        end_of_first = self._offset + len(self._decoder.decode(text_bytes[:1]))
        pending = self._decoder.getstate()[0]  # of a character that the first byte does not complete
        self._offset = end_of_first + len(self._decoder.decode(text_bytes[1:]))
        if not pending:
            return end_of_first - 1
        # The decoder keeps both bytes of half a surrogate pair (ed a0 to ed bf), which become a U+FFFD each.
        return end_of_first + (pending[:1] == b"\xed" and pending[1:] >= b"\xa0")


def _beginning(text: str, following: bytes) -> bytes:
    """Return the bytes of a prompt's first token: those of its text before the other tokens.

    Up to three bytes of ``following`` may complete a character that the first token begins. If the first token
    ends in bytes that are not a character, they cannot be derived from the text, and the next offset may be too
    low.
    """
    for num_shared in range(4):
        rest = following[num_shared:].decode(errors="replace")
        beginning = text.removesuffix(rest).encode(errors="replace").removesuffix(following[:num_shared])
        if (beginning + following).decode(errors="replace") == text:
            return beginning
    return b""


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return two parts of one choice's ``logprobs`` as one."""
    return {name: first[name] + second[name] for name in first}
