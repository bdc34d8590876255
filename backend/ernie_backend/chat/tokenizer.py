"""The tokenizer of a model directory: a SentencePiece model and the tokens added to it.

No beginning-of-sequence token is added: the chat template writes what the model needs. Special tokens are
recognised wherever their text occurs, in the prompt of a user too, as in FastDeploy: a user can forge a turn,
so a system prompt is not a security boundary.

Two kinds of tokens are more than text in an answer. A token is of the first kind that fits:

- *Structural* tokens are the tags that an answer is parsed by (``_STRUCTURE``), whatever the directory's files
  say about them: Baidu's list some among the special tokens (``<think>``, ``<|LOC_0|>``), others not, and not
  the same for every model. They are part of the text, and marked in it.
- *Special* tokens are control and unknown pieces of the SentencePiece model, and what the files call special:
  the values of ``*_token`` and ``*special_tokens`` in tokenizer_config.json and special_tokens_map.json, and
  entries of ``added_tokens_decoder`` with ``special`` true.

All others are text, added tokens included.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from ernie_backend.config.fields import read_json_object
from ernie_backend.errors import StartError
from ernie_wire.errors import InvalidValue

MODEL_FILES = ("tokenizer.model", "spm.model", "ernie_token_100k.model")
MAX_ADDED_ID = 1 << 24
_SPACE = "\u2581"
_STRUCTURE = re.compile(
    r"</?(think|response|tool_[a-z]+)>"  # thinking, the answer proper, calls of tools and their results
    r"|<\|(LOC_(\d+|BEGIN|END|SEP)|TEXT_(START|END))\|>"  # places in an image, and the text found there
    r"|<([eflux]cel|ched|rhed|srow|nl)>"  # cells and rows of a table in OTSL
)


def find_tokenizer(directory: Path) -> Path | None:
    """Return the SentencePiece model of a directory, or None."""
    return next((directory / name for name in MODEL_FILES if (directory / name).is_file()), None)


class Tokenizer:
    """Token ids of text and bytes of token ids.

    Attributes:
        special_ids, structural_ids: tokens of the two kinds above.
    """

    def __init__(
        self,
        model: sentencepiece.SentencePieceProcessor,
        added: Mapping[str, int],
        special: Collection[str] = (),
    ) -> None:
        """Wrap a SentencePiece model; see ``from_directory``.

        Args:
            model: the ``sentencepiece.SentencePieceProcessor``.
            added: tokens beyond it, text -> id.
            special: texts of the tokens that the directory's files call special.
        """
        self._model = model
        self._bytes = [_piece_bytes(model, token_id) for token_id in range(model.vocab_size())]
        self._has_dummy_prefix = bool(model.encode("a", out_type=str)[0].startswith(_SPACE))
        pieces = {model.id_to_piece(each): each for each in range(model.vocab_size())}
        controls = {
            text: each for text, each in pieces.items() if model.is_control(each) or model.is_unknown(each)
        }
        self._standalone = {**controls, **added}
        for text, token_id in added.items():
            self._bytes.extend([b""] * (token_id + 1 - len(self._bytes)))
            self._bytes[token_id] = text.encode()
        self._longest_token_bytes = max(map(len, self._bytes))
        longest_first = sorted(self._standalone, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        ids = {**pieces, **added}
        self.structural_ids = frozenset(ids[text] for text in ids if _STRUCTURE.fullmatch(text))
        self.special_ids = (
            frozenset(ids[text] for text in (*controls, *special) if text in ids) - self.structural_ids
        )

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
        return cls(model, _added_tokens(directory, model), _declared_special(directory))

    @property
    def vocab_size(self) -> int:
        """Token ids in use; the model's vocabulary may be padded beyond."""
        return len(self._bytes)

    @property
    def longest_token_bytes(self) -> int:
        """Largest number of bytes of one token: nothing is normalized away, and unknown text becomes bytes."""
        return self._longest_token_bytes

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text; special tokens are recognised.

        Raises:
            UnicodeEncodeError: the text holds half of a surrogate pair.
        """
        text.encode()
        ids: list[int] = []
        for part in self._split.split(text):
            token_id = self._standalone.get(part)
            if token_id is not None:
                ids.append(token_id)
            elif part:
                ids.extend(self._model.encode(part))
        return tuple(ids)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for; special tokens for their text, padding for none."""
        return self._bytes[token_id] if token_id < len(self._bytes) else b""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids: special tokens verbatim, U+FFFD for invalid UTF-8."""
        text = b"".join(map(self.token_bytes, token_ids)).decode("utf-8", "replace")
        return text[1:] if self._has_dummy_prefix and text.startswith(" ") else text


class NullTokenizer:
    """Stands in for a tokenizer where the directory has none: token ids in, token ids out, no text.

    Only a model with dummy weights is served like this.

    Args:
        directory: the model directory that lacks a tokenizer.
        vocab_size: token ids that the model knows.
    """

    def __init__(self, directory: Path, vocab_size: int) -> None:
        self._directory = directory
        self.vocab_size = vocab_size
        self.longest_token_bytes = 0
        self.special_ids = self.structural_ids = frozenset[int]()

    def encode(self, text: str) -> tuple[int, ...]:
        """Raise InvalidValue: ``text`` cannot be encoded."""
        raise InvalidValue(
            f"a prompt of {len(text)} characters cannot be read: {self._directory} has no {MODEL_FILES[0]}; "
            "send token ids instead"
        )

    def token_bytes(self, token_id: int) -> bytes:
        """Return no bytes, whatever ``token_id`` is."""
        del token_id
        return b""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return no text for ``token_ids``."""
        del token_ids
        return ""


def _piece_bytes(model: sentencepiece.SentencePieceProcessor, token_id: int) -> bytes:
    piece: str = model.id_to_piece(token_id)
    if model.is_byte(token_id):
        return bytes([int(piece[3:5], 16)])  # <0xNN>
    return piece.replace(_SPACE, " ").encode()


def _added_tokens(directory: Path, model: sentencepiece.SentencePieceProcessor) -> dict[str, int]:
    """Return the tokens that the directory adds beyond the SentencePiece model: text -> id."""
    added = _checked_tokens(directory / "added_tokens.json", read_json_object(directory / "added_tokens.json"))
    path = directory / "tokenizer_config.json"
    contents = {
        entry.get("content") if isinstance(entry, dict) else entry: token_id
        for token_id, entry in _added_tokens_decoder(path).items()
    }
    added.update(_checked_tokens(path, contents))
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


def _declared_special(directory: Path) -> set[str]:
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
