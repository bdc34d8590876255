"""The JSON Schema Test Suite: a schema is enforced as the draft says or refused with a reason, not in part."""

from __future__ import annotations

import json
import random
import re
from collections import Counter

from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.grammar.compiler import CompiledGrammar, GrammarCompiler
from ernie_backend.grammar.sources import structured_grammar
from ernie_wire.errors import InvalidValue
from support.grammar_walks import allowed, follows, spelled, walk
from support.json_schema_suite import NOT_ENFORCED, Case, cases
from support.paths import DENSE, ROOT

END = 2
WALKS = 2
TOKENIZER = Tokenizer.from_directory(DENSE)
COMPILER = GrammarCompiler(TOKENIZER, (END,))
COUNTED = {
    "schemas": len(cases()),
    "enforced": 170,
    "refused": 198,
    "valid instances accepted": 363,
    "valid instances refused": 22,
    "invalid instances refused": 238,
}
"""With llguidance 1.9.1: later versions may enforce more. docs/structured-output.md has the same."""


def _compiled(case: Case) -> CompiledGrammar | None:
    """Return the grammar of a schema, or None if it is refused with one of the known reasons."""
    try:
        return COMPILER.compile(structured_grammar({"json": case.schema}, {}).source())
    except InvalidValue as refusal:
        has_pointer = re.match(r"structured_outputs\.json#[^:]*: ", refusal.message)
        if has_pointer and any(reason in refusal.message for reason in NOT_ENFORCED):
            return None
        raise


def _is_accepted(grammar: CompiledGrammar, instance: object) -> bool:
    text = json.dumps(instance, separators=(",", ":"), ensure_ascii=False)
    mask, answer = grammar.start(), spelled(text, TOKENIZER)
    whole = follows(mask, answer, TOKENIZER.vocab_size) == len(answer)
    return whole and (mask.is_complete or END in allowed(mask, TOKENIZER.vocab_size))


def test_schemas_are_enforced_or_refused() -> None:
    counted: Counter[str] = Counter(schemas=len(cases()))
    num_answers = 0
    for case in cases():
        grammar = _compiled(case)
        if grammar is None:
            counted["refused"] += 1
            continue
        counted["enforced"] += 1
        for instance in case.tests:
            is_accepted = _is_accepted(grammar, instance["data"])
            assert instance["valid"] or not is_accepted, (case, instance)
            kind = "valid" if instance["valid"] else "invalid"
            counted[f"{kind} instances {'accepted' if is_accepted else 'refused'}"] += 1
        for seed in range(WALKS):
            answer, has_ended = walk(grammar.start(), TOKENIZER, (END,), random.Random(seed), 150)
            if has_ended:
                case.check(b"".join(map(TOKENIZER.token_bytes, answer)).decode())
                num_answers += 1
    for name in ("enforced", "valid instances accepted", "invalid instances refused"):
        assert counted[name] >= COUNTED[name]
    assert num_answers > COUNTED["enforced"] * WALKS * 0.6


def test_the_document_has_the_counts() -> None:
    text = " ".join((ROOT / "docs" / "structured-output.md").read_text().split())
    for name, count in COUNTED.items():
        assert f"| {name} | {count} |" in text
