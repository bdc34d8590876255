"""The embedded model's ``tokenizer.json``: made by the tool, and equal to the tokenizer of the server."""

from __future__ import annotations

import json
from random import Random

import pytest
import sentencepiece
from tokenizers import Tokenizer as HuggingFaceTokenizer

from ernie_backend.chat.tokenizer import Tokenizer
from support.paths import REPOSITORY
from train_embedded.tokenizer_json import tokenizer_json
from train_embedded.tokenizer_model import USER_DEFINED

WEIGHTS = REPOSITORY / "ernie-tiny" / "weights"
TEXTS = [
    "What is the capital of France? The capital of France is Paris.",
    "12 + 7 = 19, 3.14159, 0123456789",
    "北京是中国的首都。你好，世界！\u3000全角",
    "日本語 한국어 العربية ﷺ ñandú straße e\u0301",
    "🙂👍🏽👨\u200d👩\u200d👧 \U0001f9d1\u200d\U0001f680 \x00\x01\x7f",
    "   two  spaces   ",
    " ",
    "a\nb\r\nc\td\n\n\n",
    "User: Hi\nAssistant: ",
    "User:User: User:  Assistant:\u2581 \u2581 a\u2581b",
    "<|begin_of_sentence|>User: 2+2\nAssistant: 4<|end_of_sentence|>",
    "<s></s><unk> <think>x</think> <think <|LOC_3|><|LOC_9|> <0x41> <mask:1>",
]
PARTS = [
    *USER_DEFINED,
    *" \n\t.,?<>|",
    "the ",
    "capital of ",
    "中",
    "国",
    "首都",
    "é",
    "🙂",
    "\u2581",
    "ab",
    "</s>",
]


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer.from_directory(WEIGHTS)


@pytest.fixture(scope="module")
def theirs() -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer.from_file(str(WEIGHTS / "tokenizer.json"))


def test_the_file_is_what_the_tool_makes() -> None:
    model = sentencepiece.SentencePieceProcessor(model_proto=(WEIGHTS / "tokenizer.model").read_bytes())
    assert json.loads((WEIGHTS / "tokenizer.json").read_text(encoding="utf-8")) == tokenizer_json(model)


def test_the_ids_and_the_text_are_the_server_s(ours: Tokenizer, theirs: HuggingFaceTokenizer) -> None:
    random = Random(1)
    mixed = ["".join(random.choices(PARTS, k=random.randint(1, 30))) for _ in range(1000)]
    words = (WEIGHTS / "README.md").read_text(encoding="utf-8").splitlines()
    for text in [*TEXTS, *mixed, *words]:
        ids = list(ours.encode(text))
        assert theirs.encode(text).ids == ids, repr(text)
        back = text.replace("\u2581", " ")  # which stands for a space in pieces
        assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids) == back, repr(text)


def test_all_tokens_have_the_server_s_ids(ours: Tokenizer, theirs: HuggingFaceTokenizer) -> None:
    assert theirs.get_vocab_size() == ours.vocab_size
    for text in (*USER_DEFINED[10:-3], "<s>", "</s>", "<unk>"):
        assert (theirs.token_to_id(text),) == ours.encode(text)
