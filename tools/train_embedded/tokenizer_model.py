"""Trains the tokenizer on the generated chats and writes its files.

SentencePiece BPE as ERNIE's: byte fallback, digits of their own, ERNIE's special tokens, no prefix space. The
marks of the template (``User: ``, ``Assistant: ``, the line's end) are pieces of their own, so that an answer has
the same ids as an answer to be given and as one in the history.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import sentencepiece

from ernie_backend.chat.template import BUILT_IN
from train_embedded.mixture import taught

VOCAB_SIZE = 2048
CHATS = 60_000
UNK, BOS, EOS = 0, 1, 2
TURN_START = "Assistant: "
TURN_END = "<|end_of_sentence|>"
_LOCATIONS = tuple(f"<|LOC_{number}|>" for number in range(4))
SPECIALS = (
    "<|begin_of_sentence|>", TURN_END, "<mask:0>", "<mask:1>", "<mask:4>", "<mask:5>", "<mask:6>", "<mask:7>",
    "<|IMAGE_PLACEHOLDER|>", "<|AUDIO_PLACEHOLDER|>", *_LOCATIONS, "<|LOC_BEGIN|>", "<|LOC_END|>", "<|LOC_SEP|>",
    "<|CROP_COL_SEP|>", "<|CROP_ROW_SEP|>", "<|IMAGE_SEP|>", "<|IMAGE_START|>", "<|IMAGE_END|>", "<|VIDEO_START|>",
    "<|VIDEO_END|>", "<|VIDEO_PLACEHOLDER|>", "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_output>",
    "</tool_output>", "<response>", "</response>",
)  # fmt: skip
_MARKS = ("\n", "User:\u2581", "Assistant:\u2581")
USER_DEFINED = (*map(str, range(10)), *SPECIALS, *_MARKS)
_ADDITIONAL = SPECIALS.index("<|IMAGE_PLACEHOLDER|>")


def write_tokenizer(directory: Path, seed: int) -> None:
    """Train the tokenizer and write ``tokenizer.model`` and the JSON files beside it."""
    chats = islice(taught(Random(seed)), CHATS)
    model = _trained(part for chat in chats for message in chat.messages() for part in [message["content"]])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(model)
    config = _config()
    _write(directory / "tokenizer_config.json", config)
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
    specials = {name: config[name] for name in names}
    _write(
        directory / "special_tokens_map.json", {**specials, "additional_special_tokens": SPECIALS[_ADDITIONAL:]}
    )


def _trained(texts: Iterable[str]) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        byte_fallback=True,
        character_coverage=1.0,
        unk_id=UNK,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        user_defined_symbols=list(USER_DEFINED),
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        allow_whitespace_only_pieces=True,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _config() -> dict[str, Any]:
    return {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        "cls_token": SPECIALS[0],
        "sep_token": TURN_END,
        "mask_token": "<mask:1>",
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "legacy": True,
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "spaces_between_special_tokens": False,
        "chat_template": BUILT_IN,
    }


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
