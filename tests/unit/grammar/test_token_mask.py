"""Masks of grammars over real tokenizers: answers at random fit, and rolled back tokens leave no trace."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.grammar.compiler import GrammarCompiler
from ernie_backend.grammar.parts import literal
from ernie_backend.grammar.sources import structured_grammar
from ernie_backend.grammar.token_mask import GrammarMask, MaskAfter
from ernie_wire.errors import InvalidValue
from support.grammar_walks import allowed, follows, spelled, walk
from support.paths import DENSE, ROOT
from support.thinking_model import thinking_model

END = 2
EMBEDDED = ROOT / "model_repository" / "ernie-tiny" / "weights"
TOKENIZER = Tokenizer.from_directory(DENSE)
COMPILER = GrammarCompiler(TOKENIZER, (END,))
Structured = dict[str, Any]


def _mask(structured: Structured, compiler: GrammarCompiler = COMPILER) -> GrammarMask:
    source = structured_grammar(structured, compiler.special_tokens).source()
    return compiler.compile(source).start()


def _is_person(text: str) -> bool:
    person = json.loads(text)
    assert list(person) == ["name", "age", "tags"]
    return isinstance(person["name"], str) and 0 <= person["age"] <= 150 and len(person["tags"]) <= 2


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["ä", '"', "b\n"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
KINDS: list[tuple[Structured, Callable[[str], object]]] = [
    ({"json_object": True}, lambda text: isinstance(json.loads(text), dict)),
    ({"json": PERSON}, _is_person),
    ({"json": json.dumps(PERSON), "disable_any_whitespace": True}, lambda text: _is_person(text)),
    ({"json": True}, lambda text: (json.loads(text), True)[1]),
    ({"json": {"type": "array", "items": {}}, "whitespace_pattern": "\t"}, lambda text: "\n" not in text),
    ({"regex": r"\d{2}-[a-z]+(é|/)?"}, lambda text: re.fullmatch("[0-9]{2}-[a-z]+(é|/)?", text)),
    (
        {"choice": ["yes", "no", "n", 'a"b\\/\n', "%json", "😀"]},
        lambda text: text in {"yes", "no", "n", 'a"b\\/\n', "%json", "😀"},
    ),
    (
        {"grammar": 'start: "a" (start "b")?'},
        lambda text: re.fullmatch("a+b*", text) and text.count("b") < len(text),
    ),
    ({"grammar": 'root ::= "a" digits\ndigits ::= [0-9]+'}, lambda text: re.fullmatch("a[0-9]+", text)),
]


@pytest.fixture(scope="module", params=["oracle", "embedded", "added-tokens"])
def compiler(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GrammarCompiler:
    directories: dict[str, Callable[[], Path]] = {
        "oracle": lambda: DENSE,
        "embedded": lambda: EMBEDDED,
        "added-tokens": lambda: thinking_model(tmp_path_factory.mktemp("x1"), "ernie-x1"),
    }
    return GrammarCompiler(Tokenizer.from_directory(directories[request.param]()), (END,))


@pytest.mark.parametrize(
    ("structured", "fits"), KINDS, ids=lambda value: next(iter(value)) if isinstance(value, dict) else ""
)
def test_an_answer_at_random_fits(
    compiler: GrammarCompiler, structured: Structured, fits: Callable[[str], object]
) -> None:
    tokenizer, num_ended = compiler.tokenizer, 0
    for seed in range(12):
        answer, has_ended = walk(_mask(structured, compiler), tokenizer, (END,), random.Random(seed))
        assert tokenizer.reserved_ids.isdisjoint(answer)
        if has_ended:
            text = b"".join(map(tokenizer.token_bytes, answer)).decode()
            assert fits(text), text
            num_ended += 1
    assert num_ended >= 8


def test_every_special_token_can_be_required(compiler: GrammarCompiler) -> None:
    tokenizer = compiler.tokenizer
    for text, token_id in compiler.special_tokens.items():
        if token_id == END:
            continue
        mask = compiler.compile(f"start: {literal(f'a{text}b', compiler.special_tokens)}").start()
        first, last = spelled("ab", tokenizer)
        assert follows(mask, [first], tokenizer.vocab_size) == 1
        assert allowed(mask, tokenizer.vocab_size) == [token_id]
        mask.accept(token_id)
        assert last in allowed(mask, tokenizer.vocab_size)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rolled_back_tokens_were_never_accepted(data: st.DataObject) -> None:
    structured, _ = data.draw(st.sampled_from(KINDS))
    mask = _mask(structured)
    for_seed = random.Random(data.draw(st.integers(0, 2**32)))
    answer, _ = walk(mask, TOKENIZER, (END,), for_seed, max_tokens=data.draw(st.integers(0, 30)))
    kept = data.draw(st.integers(0, len(answer)))
    mask.rollback(len(answer) - kept)
    other = _mask(structured)
    assert follows(other, answer[:kept], TOKENIZER.vocab_size) == kept
    for token_id in answer[kept:]:
        assert mask.is_complete == other.is_complete
        assert allowed(mask, TOKENIZER.vocab_size) == allowed(other, TOKENIZER.vocab_size)
        mask.accept(token_id)
        other.accept(token_id)
    assert mask.is_complete == other.is_complete


def test_answers_of_one_grammar_do_not_know_each_other() -> None:
    grammar = COMPILER.compile('start: "ab"')
    first, second = grammar.start(), grammar.start()
    assert follows(first, spelled("ab", TOKENIZER), TOKENIZER.vocab_size) == 2
    assert first.is_complete
    assert not second.is_complete
    assert follows(second, spelled("ab", TOKENIZER), TOKENIZER.vocab_size) == 2


def test_an_answer_is_complete_when_only_its_end_may_follow() -> None:
    mask = _mask({"choice": ["a", "ab"]})
    (a, b) = spelled("ab", TOKENIZER)
    mask.accept(a)
    assert not mask.is_complete
    assert END in allowed(mask, TOKENIZER.vocab_size)
    mask.accept(b)
    assert mask.is_complete
    mask.rollback(1)
    mask.accept(END)
    assert mask.is_complete


def test_ends_are_allowed_as_far_as_the_answer_may_have_them() -> None:
    ends = (2, 14)
    grammar = GrammarCompiler(TOKENIZER, (*ends, 10**6)).compile("start: /a*/")
    assert {*ends} < {*allowed(grammar.start(), TOKENIZER.vocab_size)}
    assert not {*ends} & {*allowed(grammar.start(ends), TOKENIZER.vocab_size)}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('{"a":1}', None),
        ('{"a": [1, 2], "b": {}}', None),
        ('{\n  "a": {\n    "b": 1\n  }\n}', None),
        ("{\n" + " " * 20 + '"a": 1}', None),
        ("{\n" + " " * 21 + '"a": 1}', 22),
        ('{  "a"', 2),
        ("{\n\n", 2),
        (" {", 0),
        ("{}\n", 2),
    ],
)
def test_whitespace_is_bounded(text: str, count: int | None) -> None:
    answer = spelled(text, TOKENIZER)
    mask = _mask({"json_object": True})
    assert follows(mask, answer, TOKENIZER.vocab_size) == (len(answer) if count is None else count)


def test_a_mask_begins_after_a_token() -> None:
    (think,) = (each for each in TOKENIZER.structural_ids if TOKENIZER.token_bytes(each) == b"</think>")
    a, b, c = spelled("abc", TOKENIZER)
    mask = MaskAfter(COMPILER.compile('start: "ab"').start(), think, (END,))
    free = [each for each in range(TOKENIZER.vocab_size) if each != END]
    for token_id in (c, a, think):
        assert allowed(mask, TOKENIZER.vocab_size) == free
        assert not mask.is_complete
        mask.accept(token_id)
    answer = [c, a, think, a, b]
    assert follows(mask, answer[3:], TOKENIZER.vocab_size) == 2
    for count in range(5):
        assert mask.is_complete
        mask.rollback(count)
        assert follows(mask, answer[5 - count :], TOKENIZER.vocab_size) == count


def test_a_grammar_that_grows_too_complex_ends_its_answer_with_a_reason() -> None:
    large = {"type": "object", "properties": {f"n{number}": {} for number in range(1_100)}}
    with pytest.raises(InvalidValue, match="too large"):
        _mask({"json": large})
    mask = _mask({"json": {"type": "array", "items": large}})
    assert follows(mask, spelled("[{", TOKENIZER), TOKENIZER.vocab_size) == 2
    with pytest.raises(InvalidValue, match="simpler"):
        allowed(mask, TOKENIZER.vocab_size)
