"""The tokens of a model directory beyond ordinary pieces: what its files add, declare special or define."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sentencepiece

from ernie_backend.config.fields import read_json_object
from ernie_backend.errors import StartError

MAX_ADDED_ID = 1 << 24
_PIECE_TAG = 0x0A
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
"""Kinds of pieces; those that are user-defined are found in any text, whatever is around them."""


def added_tokens(directory: Path, model: sentencepiece.SentencePieceProcessor) -> dict[str, int]:
    """Return the tokens that the directory adds beyond the SentencePiece model: text -> id."""
    added = _checked(directory / "added_tokens.json", read_json_object(directory / "added_tokens.json"))
    path = directory / "tokenizer_config.json"
    contents = {
        entry.get("content") if isinstance(entry, dict) else entry: token_id
        for token_id, entry in _added_tokens_decoder(path).items()
    }
    added.update(_checked(path, contents))
    for text, token_id in added.items():
        if token_id < model.vocab_size() and model.id_to_piece(token_id) != text:
            raise StartError(
                f"{directory}: added token {text!r} has id {token_id}, "
                f"which is {model.id_to_piece(token_id)!r} in the SentencePiece model"
            )
    return added


def _added_tokens_decoder(path: Path) -> dict[str, Any]:
    """Return ``added_tokens_decoder`` of a tokenizer_config.json: id -> properties of the token."""
    decoder = read_json_object(path).get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise StartError(f"{path}: added_tokens_decoder must be an object, found {type(decoder).__name__}")
    return decoder


def declared_special(directory: Path) -> set[str]:
    """Return the texts of the tokens that the files of a directory call special."""
    path = directory / "tokenizer_config.json"
    declared = {
        text
        for values in (read_json_object(path), read_json_object(directory / "special_tokens_map.json"))
        for name, value in values.items()
        if name.endswith(("_token", "special_tokens"))
        for text in _token_texts(value)
    }
    decoder = _added_tokens_decoder(path).values()
    entries = [each for each in decoder if isinstance(each, dict) and each.get("special") is True]
    return declared.union(_token_texts(entries))


def _token_texts(value: object) -> Iterator[str]:
    """Yield the texts of tokens: each a string or an object with ``content``, alone, in a list or by name."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in [value["content"]] if "content" in value else value.values():
            yield from _token_texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _token_texts(each)


def _checked(path: Path, tokens: Mapping[Any, Any]) -> dict[str, int]:
    """Return added tokens, text -> id, with the ids as integers."""
    for text, token_id in tokens.items():
        is_id = isinstance(token_id, int) or (isinstance(token_id, str) and token_id.isdecimal())
        if not isinstance(text, str) or not text or not is_id or not 0 <= int(token_id) <= MAX_ADDED_ID:
            raise StartError(
                f"{path}: an added token is {text!r} with id {token_id!r}; it must be a text with an id in "
                f"[0, {MAX_ADDED_ID}]"
            )
    return {text: int(token_id) for text, token_id in tokens.items()}


def pieces(model: sentencepiece.SentencePieceProcessor) -> tuple[list[bytes], bytes]:
    """Return texts and kinds of the pieces of a model, in the order of their ids.

    The library does not say which pieces are user-defined, and answers questions about one piece at a time. So
    its protobuf is read: all fields of ``ModelProto`` have a length, those with the tag 0x0A are the pieces. A
    piece has its text, its score in 5 bytes, and its kind in 2 if it is not ``NORMAL``. There are a hundred
    thousand of them, hence no call for a number of one byte.
    """
    proto: bytes = model.serialized_model_proto()
    texts, kinds, end = list[bytes](), bytearray(), 0
    while end < len(proto):
        tag, size, at = proto[end], proto[end + 1], end + 2
        if tag > 0x7F or size > 0x7F:
            tag, at = _varint(proto, end)
            size, at = _varint(proto, at)
        end = at + size
        if tag == _PIECE_TAG:
            length, start = proto[at + 1], at + 2
            if length > 0x7F:
                length, start = _varint(proto, at + 1)
            text_end = start + length
            texts.append(proto[start:text_end])
            kinds.append(proto[end - 1] if (end - text_end) % 5 else NORMAL)
    return texts, bytes(kinds)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of seven bits per byte, the lowest first, and where it ends."""
    value = shift = 0
    while data[at] > 0x7F:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return value | data[at] << shift, at + 1
