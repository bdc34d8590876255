"""The tokenizer of a model directory: a SentencePiece model and the tokens added to it.

No beginning-of-sequence token is added: the chat template writes what the model needs. In a raw prompt, special
tokens are recognised wherever their text occurs, as in FastDeploy. In a chat they are recognised only where the
template wrote the whole of it: in what a client sends, the same characters are spelled with other tokens.

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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import sentencepiece

from ernie_backend.chat.added_tokens import (
    BYTE,
    CONTROL,
    UNKNOWN,
    USER_DEFINED,
    added_tokens,
    declared_special,
    pieces,
)
from ernie_backend.errors import StartError
from ernie_wire.errors import InvalidValue

MODEL_FILES = ("tokenizer.model", "spm.model", "ernie_token_100k.model")
_SPACE = "\u2581"
_SPACE_BYTES = _SPACE.encode()
_TEMPLATE_RUN = re.compile(b"\x01+")
_TAG = re.compile(r"<.+>|\[.+\]", re.DOTALL)  # a token that nobody declares special, but looks it
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
        reserved_ids: these, and added or user-defined tokens that look like tags.
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
        encoded, kinds = pieces(model)
        texts = [each.decode() for each in encoded]
        self._bytes = [each.replace(_SPACE_BYTES, b" ") for each in encoded]
        for each, kind in enumerate(kinds):
            if kind == BYTE:
                self._bytes[each] = bytes([int(texts[each][3:5], 16)])  # <0xNN>
        self._has_dummy_prefix = bool(model.encode("a", out_type=str)[0].startswith(_SPACE))
        controls = {texts[each]: each for each, kind in enumerate(kinds) if kind in (CONTROL, UNKNOWN)}
        self._standalone = {**controls, **added}
        for text, token_id in added.items():
            self._bytes.extend([b""] * (token_id + 1 - len(self._bytes)))
            self._bytes[token_id] = text.encode()
        self._longest_token_bytes = max(map(len, self._bytes))
        self._ids = ids = {**dict(zip(texts, range(len(texts)), strict=True)), **added}
        self.structural_ids = frozenset(ids[text] for text in ids if _STRUCTURE.fullmatch(text))
        self.special_ids = (
            frozenset(ids[text] for text in (*controls, *special) if text in ids) - self.structural_ids
        )
        defined = {texts[each]: each for each, kind in enumerate(kinds) if kind == USER_DEFINED}
        tags = {each for text, each in {**defined, **added}.items() if _TAG.fullmatch(text)}
        self.reserved_ids = self.special_ids | self.structural_ids | tags
        self._standalone_pattern = _any_of(self._standalone)
        self._text_token_pattern = _any_of(
            text for text, each in self._standalone.items() if each not in self.reserved_ids
        )
        # SentencePiece itself recognises pieces of its model; the unknown one is an answer to any text.
        self._spellings = {
            each: self._spelling(model.id_to_piece(each))
            for each in self.reserved_ids
            if each < model.vocab_size() and not model.is_unknown(each)
        }

        self._spelled_pattern = _any_of(map(model.id_to_piece, self._spellings))

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
        return cls(model, added_tokens(directory, model), declared_special(directory))

    @property
    def vocab_size(self) -> int:
        """Token ids in use; the model's vocabulary may be padded beyond."""
        return len(self._bytes)

    @property
    def longest_token_bytes(self) -> int:
        """Largest number of bytes of one token: nothing is normalized away, and unknown text becomes bytes."""
        return self._longest_token_bytes

    def token_id(self, text: str) -> int | None:
        """Return the token that is a text; None: no token is."""
        return self._ids.get(text)

    def encode(self, text: str, origins: bytes | None = None) -> tuple[int, ...]:
        """Return the token ids of a text.

        Args:
            text: of a raw prompt, or of a chat.
            origins: a byte per character of a chat, 1 where special tokens are recognised; None: everywhere.

        Raises:
            UnicodeEncodeError: the text holds half of a surrogate pair.
        """
        text.encode()
        if origins is None:
            origins = b"\x01" * len(text)
        ids: list[int] = []
        start = 0
        for run in _TEMPLATE_RUN.finditer(origins):
            for match in self._standalone_pattern.finditer(text, *run.span()):
                token_id = self._standalone[match[0]]
                if token_id in self.reserved_ids:
                    ids.extend(self._encode_text(text[start : match.start()], origins[start : match.start()]))
                    ids.append(token_id)
                    start = match.end()
        ids.extend(self._encode_text(text[start:], origins[start:]))
        return tuple(ids)

    def _encode_text(self, text: str, origins: bytes) -> Iterator[int]:
        """Yield the ids of a text between reserved tokens that are added or control pieces."""
        start = 0
        for match in self._text_token_pattern.finditer(text):
            yield from self._encode_pieces(text[start : match.start()], origins[start : match.start()])
            yield self._standalone[match[0]]
            start = match.end()
        yield from self._encode_pieces(text[start:], origins[start:])

    def _encode_pieces(self, text: str, origins: bytes) -> Sequence[int]:
        """Return the ids that SentencePiece gives, with reserved tokens of the client's text spelled."""
        ids: list[int] = self._model.encode(text) if text else []
        if 0 not in origins or self._spellings.keys().isdisjoint(ids):
            return ids
        places = [match.span() for match in self._spelled_pattern.finditer(text)]
        written = [self._model.piece_to_id(text[start:end]) for start, end in places]
        found = [each for each in ids if each in self._spellings]
        if found == written and not any(0 in origins[start:end] for start, end in places):
            return ids  # those that the template wrote, and the client none
        prefix = " " if self._has_dummy_prefix else ""
        decoded = prefix + text.replace(_SPACE, " ")
        origin_of_bytes = b"".join(
            bytes([origin]) * len(character.encode())
            for character, origin in zip(decoded, b"\x01" * len(prefix) + origins, strict=True)
        )
        pieces = [self._bytes[each] for each in ids]
        if b"".join(pieces) != decoded.encode():  # normalized: no token has a known place in the text
            origin_of_bytes = bytes(sum(map(len, pieces)))
        result: list[int] = []
        end = 0
        for token_id, piece in zip(ids, pieces, strict=True):
            start, end = end, end + len(piece)
            is_client_s = 0 in origin_of_bytes[start:end]
            result.extend(self._spellings.get(token_id, (token_id,)) if is_client_s else (token_id,))
        return result

    def _spelling(self, text: str) -> tuple[int, ...]:
        """Return ids for the text of a reserved token without any such token: two parts of it, or its bytes."""
        for cut in range(1, len(text)):
            ids = (*self._model.encode(text[:cut]), *self._model.encode(text[cut:]))
            if self.reserved_ids.isdisjoint(ids):
                return ids
        return tuple(self._model.piece_to_id(f"<0x{byte:02X}>") for byte in text.encode())

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

    def encode(self, text: str, origins: bytes | None = None) -> tuple[int, ...]:
        """Raise InvalidValue: ``text`` cannot be encoded."""
        del origins
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


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds the longest of the texts at a place; nothing if there are none."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) if longest_first else "(?!)")
