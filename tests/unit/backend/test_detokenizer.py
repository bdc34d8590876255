"""Streaming text: whole characters, nothing lost, however it comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.engine.detokenizer import Detokenizer
from support.paths import DENSE

MODEL = DENSE
TOKENIZER = Tokenizer.from_directory(MODEL)


def _pieces(token_ids: tuple[int, ...] | list[int]) -> list[str]:
    detokenizer = Detokenizer(TOKENIZER)
    return [*(detokenizer.push(token_id).text for token_id in token_ids), detokenizer.finish().text]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_every_character_comes_whole(text: str) -> None:
    """All of Unicode that the normaliser leaves alone; most of it has no piece and goes byte by byte."""
    token_ids = TOKENIZER.encode(text)
    whole = TOKENIZER.decode(token_ids)
    pieces = _pieces(token_ids)
    assert "".join(pieces) == whole
    if "\ufffd" not in whole:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.integers(0, 639), max_size=60))
def test_any_tokens_give_the_same_text_streamed_and_at_once(token_ids: list[int]) -> None:
    assert "".join(_pieces(token_ids)) == TOKENIZER.decode(token_ids)


def test_a_character_of_four_byte_tokens_appears_with_the_last() -> None:
    token_ids = TOKENIZER.encode("😀")
    assert len([each for each in token_ids if TOKENIZER.token_bytes(each) != b" "]) == 4
    assert [piece for piece in _pieces(token_ids) if piece.strip()] == ["😀"]


def test_an_unfinished_character_is_flushed_at_the_end() -> None:
    token_ids = TOKENIZER.encode("x😀")[:-1]
    pieces = _pieces(token_ids)
    assert pieces[-1] == "\ufffd"
    assert "".join(pieces[:-1]) == "x"


@pytest.mark.parametrize("text", [" leading", "two  spaces", "trailing ", "  ", "a b"])
def test_spaces_are_never_lost(text: str) -> None:
    assert "".join(_pieces(TOKENIZER.encode(text))) == text
