"""Writes a SentencePiece model as the ``tokenizer.json`` that Hugging Face's libraries read.

``python -m train_embedded.tokenizer_json DIRECTORY`` makes it of the ``tokenizer.model`` there. It is for clients that
count tokens, such as load generators: the server reads ``tokenizer.model``. transformers can convert that by itself,
but versions differ in what they make of user-defined symbols.

The two say the same of a BPE model as follows. SentencePiece joins the neighbours whose union has the highest score;
here merges are listed, the first wins. It cuts user-defined symbols out before, from text whose spaces are U+2581;
here those are added tokens that are sought in normalized text. Control tokens are cut out of the text as it stands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece

from train_embedded.tokenizer_model import SPECIALS, USER_DEFINED

_SPACE = "\u2581"
_UNSEEN = frozenset(SPECIALS[: SPECIALS.index("<think>")])
"""Special tokens that ``skip_special_tokens`` drops; those after them give an answer its structure."""


def tokenizer_json(model: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    """Return the content of ``tokenizer.json`` for a BPE model with byte fallback and without a dummy prefix."""
    pieces = [model.id_to_piece(each) for each in range(model.vocab_size())]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_added_tokens(model)),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": model.id_to_piece(model.unk_id()),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: each for each, piece in enumerate(pieces)},
            "merges": list(_merges(model)),
        },
    }


def _added_tokens(model: sentencepiece.SentencePieceProcessor) -> Iterator[dict[str, Any]]:
    """Yield the control tokens and the user-defined symbols, by their ids."""
    for each in range(model.vocab_size()):
        piece = model.id_to_piece(each)
        is_control = _is_control(model, each)
        if is_control or piece in USER_DEFINED:
            yield {
                "id": each,
                "content": piece,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": not is_control,
                "special": is_control or piece in _UNSEEN,
            }


def _is_control(model: sentencepiece.SentencePieceProcessor, each: int) -> bool:
    return bool(model.is_control(each) or model.is_unknown(each))


def _merges(model: sentencepiece.SentencePieceProcessor) -> Iterator[list[str]]:
    """Yield the pairs of pieces whose union is a piece, in the order of the unions' scores."""
    normal = {
        piece: model.get_score(each)
        for each in range(model.vocab_size())
        if not (_is_control(model, each) or model.is_byte(each))
        and (piece := model.id_to_piece(each)) not in USER_DEFINED
    }
    for piece in sorted(normal, key=lambda piece: -normal[piece]):
        for cut in range(1, len(piece)):
            if piece[:cut] in normal and piece[cut:] in normal:
                yield [piece[:cut], piece[cut:]]


def write_tokenizer_json(directory: Path) -> None:
    """Write ``tokenizer.json`` beside the ``tokenizer.model`` of a directory."""
    model = sentencepiece.SentencePieceProcessor(model_proto=(directory / "tokenizer.model").read_bytes())
    text = json.dumps(tokenizer_json(model), ensure_ascii=False, indent=1) + "\n"
    (directory / "tokenizer.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_tokenizer_json(Path(sys.argv[1]))
