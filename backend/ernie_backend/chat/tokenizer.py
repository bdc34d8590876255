"""The tokenizer of a model directory: a SentencePiece model and the tokens added to it.

No beginning-of-sequence token is added: the chat template writes what the model wants. Special tokens are
recognised wherever their text stands, in the prompt of a user too, as in FastDeploy: a user can forge a turn,
so a system prompt is no security boundary. This module must not know chat templates or requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from ernie_backend.errors import StartError
from ernie_backend.model_files import read_json_object

MODEL_FILES = ("tokenizer.model", "spm.model", "ernie_token_100k.model")
MAX_ADDED_ID = 1 << 24
_SPACE = "\u2581"


def find_tokenizer(directory: Path) -> Path | None:
    """Return the SentencePiece model of a directory, or None."""
    return next((directory / name for name in MODEL_FILES if (directory / name).is_file()), None)


class Tokenizer:
    """Token ids of text and bytes of token ids."""

    def __init__(self, model: sentencepiece.SentencePieceProcessor, added: Mapping[str, int]) -> None:
        """Wrap a ``sentencepiece.SentencePieceProcessor`` and tokens beyond it; see ``from_directory``."""
        self._model = model
        self._bytes = [_piece_bytes(model, token_id) for token_id in range(model.vocab_size())]
        self._has_dummy_prefix = bool(model.encode("a", out_type=str)[0].startswith(_SPACE))
        controls = [
            each for each in range(model.vocab_size()) if model.is_control(each) or model.is_unknown(each)
        ]
        self._specials = {**{model.id_to_piece(each): each for each in controls}, **added}
        for text, token_id in added.items():
            self._bytes.extend([b""] * (token_id + 1 - len(self._bytes)))
            self._bytes[token_id] = text.encode()
        self._longest_token_bytes = max(map(len, self._bytes))
        longest_first = sorted(self._specials, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    @classmethod
    def from_directory(cls, directory: Path) -> Tokenizer:
        """Read the tokenizer of a model directory.

        Raises:
            StartError: there is none, or a file of it cannot be read.
        """
        path = find_tokenizer(directory)
        if path is None:
            raise StartError(f"{directory} has no tokenizer: one of {', '.join(MODEL_FILES)} is needed")
        try:
            model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
        except (OSError, RuntimeError) as error:
            raise StartError(f"{path} cannot be read as a SentencePiece model: {error}") from error
        return cls(model, _added_tokens(directory, model))

    @property
    def vocab_size(self) -> int:
        """Token ids in use; the model's vocabulary may be padded beyond."""
        return len(self._bytes)

    @property
    def longest_token_bytes(self) -> int:
        """Most bytes of text that one token stands for: nothing is normalized away, unknown text is bytes."""
        return self._longest_token_bytes

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text; special tokens are recognised.

        Raises:
            UnicodeEncodeError: the text holds half of a surrogate pair.
        """
        text.encode()
        ids: list[int] = []
        for part in self._split.split(text):
            special = self._specials.get(part)
            if special is not None:
                ids.append(special)
            elif part:
                ids.extend(self._model.encode(part))
        return tuple(ids)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for; special tokens for their text, padding for none."""
        return self._bytes[token_id] if token_id < len(self._bytes) else b""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids: special tokens verbatim, U+FFFD for bytes that are no character."""
        text = b"".join(map(self.token_bytes, token_ids)).decode("utf-8", "replace")
        return text[1:] if self._has_dummy_prefix and text.startswith(" ") else text


def _piece_bytes(model: sentencepiece.SentencePieceProcessor, token_id: int) -> bytes:
    piece: str = model.id_to_piece(token_id)
    if model.is_byte(token_id):
        return bytes([int(piece[3:5], 16)])  # <0xNN>
    return piece.replace(_SPACE, " ").encode()


def _added_tokens(directory: Path, model: sentencepiece.SentencePieceProcessor) -> dict[str, int]:
    """Return the tokens that the directory adds beyond the SentencePiece model: text -> id."""
    added = _checked_tokens(directory / "added_tokens.json", read_json_object(directory / "added_tokens.json"))
    path = directory / "tokenizer_config.json"
    decoder = read_json_object(path).get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise StartError(f"{path}: added_tokens_decoder must be an object, found {type(decoder).__name__}")
    contents = {
        token_id: entry.get("content") if isinstance(entry, dict) else entry
        for token_id, entry in decoder.items()
    }
    added.update(_checked_tokens(path, {text: token_id for token_id, text in contents.items()}))
    for text, token_id in added.items():
        if token_id < model.vocab_size() and model.id_to_piece(token_id) != text:
            raise StartError(
                f"{directory}: added token {text!r} has id {token_id}, "
                f"which is {model.id_to_piece(token_id)!r} in the SentencePiece model"
            )
    return added


def _checked_tokens(path: Path, tokens: Mapping[Any, Any]) -> dict[str, int]:
    """Return added tokens, text -> id, with the ids as integers."""
    for text, token_id in tokens.items():
        is_id = isinstance(token_id, int) or (isinstance(token_id, str) and token_id.isdecimal())
        if not isinstance(text, str) or not text or not is_id or not 0 <= int(token_id) <= MAX_ADDED_ID:
            raise StartError(
                f"{path}: an added token is {text!r} with id {token_id!r}; it must be a text with an id in "
                f"[0, {MAX_ADDED_ID}]"
            )
    return {text: int(token_id) for text, token_id in tokens.items()}
