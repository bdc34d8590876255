"""The tokenizer against the golden cases, added tokens, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ernie_backend.chat.added_tokens import BYTE, NORMAL, USER_DEFINED, pieces
from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.errors import StartError
from support.paths import DATA

GOLDEN = json.loads((DATA / "tokenizer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=["dense", "dense-Paddle"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.from_directory(DATA / str(request.param))


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: repr(case["text"]))
def test_golden_cases(tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    assert list(tokenizer.encode(case["text"])) == case["ids"]
    assert tokenizer.decode(case["ids"]) == case["decoded"]


@pytest.mark.parametrize(("text", "token_id"), GOLDEN["special_ids"].items())
def test_special_tokens_are_one_token_and_decode_verbatim(
    tokenizer: Tokenizer, text: str, token_id: int
) -> None:
    assert tokenizer.encode(text) == (token_id,)
    assert tokenizer.decode([token_id]) == text
    assert token_id in tokenizer.encode(f"a {text} b")


@pytest.mark.parametrize("length", [1, 100, 118, 119, 130, 300])  # around records and texts of 127 bytes
def test_pieces_of_any_length_are_read(length: int) -> None:
    def field(tag: int, content: bytes) -> bytes:
        size = (
            bytes([len(content) & 127 | 128, len(content) >> 7])
            if len(content) > 127
            else bytes([len(content)])
        )
        return bytes([tag]) + size + content

    score, text = b"\x15" + bytes(4), b"x" * length
    records = [field(10, text) + score + kind for kind in (b"", b"\x18\x04", b"\x18\x06")]
    proto = field(18, b"trainer") + b"".join(field(10, each) for each in records)
    model = Mock(**{"serialized_model_proto.return_value": proto})
    assert pieces(model) == ([text] * 3, bytes([NORMAL, USER_DEFINED, BYTE]))


def _copy(tmp_path: Path, **files: object) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    shutil.copy(DATA / "dense" / "tokenizer.model", directory / "spm.model")
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def test_added_tokens_beyond_the_model_from_both_files(tmp_path: Path) -> None:
    directory = _copy(
        tmp_path,
        added_tokens={"<|A|>": 562, "<|AB|>": 570},
        tokenizer_config={"added_tokens_decoder": {"571": {"content": "<|A|>+", "special": True}}},
    )
    tokenizer = Tokenizer.from_directory(directory)
    assert tokenizer.vocab_size == 572
    assert tokenizer.encode("<|A|>+<|A|><|AB|>") == (571, 562, 570)
    assert tokenizer.decode([562, 565, 570]) == "<|A|><|AB|>"
    assert tokenizer.token_bytes(600) == b""


def test_an_added_token_that_contradicts_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"38.*<think>"):
        Tokenizer.from_directory(_copy(tmp_path, added_tokens={"<|X|>": 38}))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens", {"<|X|>": None}),
        ("added_tokens", {"<|X|>": -1}),
        ("added_tokens", {"<|X|>": 1 << 30}),
        ("added_tokens", {"": 600}),
        ("tokenizer_config", {"added_tokens_decoder": ["<|X|>"]}),
        ("tokenizer_config", {"added_tokens_decoder": {"600": None}}),
        ("tokenizer_config", {"added_tokens_decoder": {"600": {"special": True}}}),
        ("tokenizer_config", {"added_tokens_decoder": {"x": {"content": "<|X|>"}}}),
    ],
)
def test_added_tokens_that_are_none_are_refused(tmp_path: Path, name: str, content: object) -> None:
    with pytest.raises(StartError, match=rf"{name}\.json"):
        Tokenizer.from_directory(_copy(tmp_path, **{name: content}))


def test_no_added_tokens_at_all(tmp_path: Path) -> None:
    directory = _copy(tmp_path, tokenizer_config={"added_tokens_decoder": None})
    assert Tokenizer.from_directory(directory).vocab_size == 562


def test_no_tokenizer_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"no tokenizer"):
        Tokenizer.from_directory(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(StartError, match=r"tokenizer\.model .*SentencePiece"):
        Tokenizer.from_directory(tmp_path)


def test_half_a_surrogate_pair_is_no_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode("a\ud800")
