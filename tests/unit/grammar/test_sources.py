"""From ``structured_outputs`` to a grammar: structural tags, and errors that name the place and the reason."""

from __future__ import annotations

from typing import Any

import pytest

from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.grammar.compiler import GrammarCompiler
from ernie_backend.grammar.json_schema import _subschemas
from ernie_backend.grammar.sources import MAX_GBNF_CHARACTERS, structured_grammar
from ernie_backend.grammar.token_mask import GrammarMask
from ernie_wire.errors import InvalidValue
from support.grammar_walks import allowed, follows, spelled
from support.paths import DENSE

END = 2
TOKENIZER = Tokenizer.from_directory(DENSE)
COMPILER = GrammarCompiler(TOKENIZER, (END,))
SPECIAL = COMPILER.special_tokens
Form = dict[str, Any]
INTEGER: Form = {"type": "json_schema", "json_schema": {"type": "integer"}}
CALLS = {
    "structures": [
        {"begin": "<f=a>", "schema": {"type": "integer"}, "end": "</f>"},
        {"begin": "<f=b>", "schema": {"enum": ["x"]}, "end": "</f>"},
        {"begin": "<tool_call>\n", "schema": {"type": "object"}, "end": "\n</tool_call>"},
    ],
    "triggers": ["<f=", "<tool_call>"],
}


def _mask(structured: Form, before: str = "", after: str = "") -> GrammarMask:
    return COMPILER.compile(structured_grammar(structured, SPECIAL).source(before, after)).start()


def _ids(text: str) -> list[int]:
    """Return the tokens of a text in which the tags of calls are tokens."""
    ids: list[int] = []
    for index, piece in enumerate(
        text.replace("</tool_call>", "|</tool_call>|").replace("<tool_call>", "|<tool_call>|").split("|")
    ):
        ids += [SPECIAL[piece]] if index % 2 else spelled(piece, TOKENIZER)
    return ids


def _tag(form: Form) -> Form:
    return {"structural_tag": {"type": "structural_tag", "format": form}}


def _fits(structured: Form, text: str) -> bool:
    mask, answer = _mask(structured), _ids(text)
    if follows(mask, answer, TOKENIZER.vocab_size) < len(answer):
        return False
    return mask.is_complete or END in allowed(mask, TOKENIZER.vocab_size)


TRIGGERED: Form = {
    "type": "triggered_tags",
    "triggers": ["<f"],
    "tags": [{"type": "tag", "begin": "<f>", "content": INTEGER, "end": "</f>"}],
}


@pytest.mark.parametrize(
    ("structured", "text", "fits"),
    [
        ({"structural_tag": CALLS}, "free text, even <f and\n<tool>", True),
        ({"structural_tag": CALLS}, "<f=a>12</f>", True),
        ({"structural_tag": CALLS}, 'a <f=a>12</f> b <f=b>"x"</f> c', True),
        ({"structural_tag": CALLS}, "a <f=a>", False),
        ({"structural_tag": CALLS}, "a <f=c>", False),
        ({"structural_tag": CALLS}, "a <f=b>12</f>", False),
        ({"structural_tag": CALLS}, 'a<tool_call>\n{"b": 1}\n</tool_call>z', True),
        ({"structural_tag": CALLS}, "a<tool_call>\n1", False),
        (_tag(TRIGGERED), "no call", True),
        (_tag(TRIGGERED), "a<f>1</f>b<f>2</f>c", True),
        (_tag({**TRIGGERED, "at_least_one": True}), "no call", False),
        (_tag({**TRIGGERED, "at_least_one": True}), "a<f>1</f>b", True),
        (_tag({**TRIGGERED, "stop_after_first": True}), "a<f>1</f>", True),
        (_tag({**TRIGGERED, "stop_after_first": True}), "a<f>1</f>b", False),
        (
            _tag({"type": "tag", "begin": "<a>", "content": {"type": "any_text"}, "end": "</a>"}),
            "<a>x\n</b></a>",
            True,
        ),
        (
            _tag({"type": "tag", "begin": "<a>", "content": {"type": "any_text"}, "end": "</a>"}),
            "<a>x</a>y",
            False,
        ),
        (
            _tag(
                {"type": "tag", "begin": "<tool_call>", "content": {"type": "any_text"}, "end": "</tool_call>"}
            ),
            "<tool_call>x</tool_call>",
            True,
        ),
        (_tag({"type": "tag", "begin": "", "content": INTEGER, "end": ""}), "12", True),
        (
            _tag({"type": "sequence", "elements": [{"type": "const_string", "value": 'a/"'}, INTEGER]}),
            'a/"5',
            True,
        ),
        (_tag({"type": "sequence", "elements": [INTEGER, {"type": "any_text"}]}), "5 and text", True),
        (_tag({"type": "or", "elements": [{"type": "regex", "pattern": "[ab]+"}, INTEGER]}), "abba", True),
        (_tag({"type": "or", "elements": [{"type": "regex", "pattern": "[ab]+"}, INTEGER]}), "a5", False),
    ],
)
def test_structural_tags(structured: Form, text: str, fits: bool) -> None:
    assert _fits(structured, text) is fits


def test_names_like_keywords_and_unused_definitions_are_no_matter() -> None:
    properties = {"not": {"enum": [{"if": 1}]}, "contains": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "$defs": {"unused": {"not": {}}}, "required": ["not"]}
    assert _fits({"json": schema}, '{"not":{"if":1},"contains":5}')


@pytest.mark.parametrize(
    "grammar", ['?start: x\n!?x: "a" | "b"', '!x: "a" | "b"\nstart: x', 'root ::= "a" | "b"']
)
def test_rules_may_have_the_modifiers_of_lark(grammar: str) -> None:
    assert _fits({"grammar": grammar}, "b")
    assert not _fits({"grammar": grammar}, "c")


def test_keywords_that_limit_nothing_are_accepted() -> None:
    neutral: Form = {"unevaluatedProperties": True, "propertyNames": {"type": "string"}, "dependencies": {}}
    tags = {"type": "array", "items": {"enum": [{"uniqueItems": False}]}, "uniqueItems": False}
    schema = {**neutral, "type": "object", "properties": {"a": {"$ref": "#/b/c"}}, "b": {"c": tags}}
    assert _fits({"json": schema}, '{"a":[{"uniqueItems":false},{"uniqueItems":false}]}')
    assert not _fits({"json": schema}, '{"a":[{}]}')
    assert schema["propertyNames"] == {"type": "string"}  # the request is left as it was


def test_a_part_of_a_schema_is_read_once_however_many_pointers_name_it() -> None:
    parts = [{"type": "integer"} for _ in range(100)]
    names = [{"$ref": f"#/b/{'0' * number}"} for number in range(1, 101)]
    schema: Form = {"anyOf": names, "b": [{"anyOf": parts}]}
    assert len(list(_subschemas(schema))) == 1 + len(names) + 1 + len(parts)


def test_a_grammar_can_be_a_part_of_another_one() -> None:
    text = 'start: "start" "//" x // start\n# start\nx: /end\\/"/ | start'
    mask = _mask({"grammar": text}, '"<"', '">"')
    answer = spelled('<start//start//end/">', TOKENIZER)
    assert follows(mask, answer, TOKENIZER.vocab_size) == len(answer)
    assert mask.is_complete


DEEP: Form = {"type": "object", "properties": {"a": {"properties": {"b/c~": {"items": {"format": "path"}}}}}}
DRAFT_7: Form = {"$schema": "http://json-schema.org/draft-07/schema#"}
RECURSIVE: Form = {
    "properties": {"a": {"$ref": "#/$defs/node"}},
    "$defs": {"node": {"properties": {"left": {"$ref": "#/$defs/node"}, "z": {"uniqueItems": True}}}},
}


@pytest.mark.parametrize(
    ("structured", "words"),
    [
        ({"json": DEEP}, "structured_outputs.json#/properties/a/properties/b~1c~0/items: Unknown format: path"),
        ({"json": RECURSIVE}, r"json#/\$defs/node/properties/z: .*uniqueItems"),
        ({"json": {"anyOf": [{"type": "integer"}, {"not": {}}]}}, "json#/anyOf/1: .*not"),
        ({"json": {**DRAFT_7, "items": {"dependentRequired": {"a": ["b"]}}}}, "json#/items: dependentRequired"),
        (
            _tag({"type": "json_schema", "json_schema": {**DRAFT_7, "unevaluatedItems": False}}),
            "json_schema#: uneval",
        ),
        ({"json": {"divisibleBy": 3, "if": {}}}, "json#: divisibleBy, if cannot be enforced"),
        ({"json": {"$ref": "#/$defs/no"}}, r"json#: .*/\$defs/no"),
        ({"json": {"$ref": "http://localhost/x"}}, "json#: .*another document"),
        ({"json": {"type": "text"}}, "json#: .*type: text"),
        ({"json": {"items": {"pattern": "(?=a)"}}}, "json#/items: .*look-ahead"),
        (
            {
                "json": {
                    "properties": {"a": {"minLength": 3, "maxLength": 2, "type": "string"}},
                    "required": ["a"],
                    "type": "object",
                }
            },
            "#/properties/a: Unsatisf",
        ),
        ({"json": False}, "json#: .*false"),
        ({"json": "[1]"}, "json must be a JSON object"),
        ({"json": "{"}, "json is not JSON"),
        ({"json": {"const": float("nan")}}, "structured_outputs"),
        ({"json": {"x-guidance": {"lenient": True}}}, "json#/x-guidance: .*whitespace_pattern"),
        ({"json_object": True, "whitespace_pattern": "["}, "unclosed"),
        ({"regex": "(?=a)b"}, "structured_outputs: .*look-ahead"),
        ({"regex": "["}, "structured_outputs: .*unclosed"),
        ({"grammar": 'start: "a"\n  other'}, r"structured_outputs: 2\("),
        ({"grammar": 'start: word "."\nword[max_tokens=3]: /[a-z]+/'}, "max_tokens"),
        ({"grammar": "start: other"}, 'unknown name: "other"'),
        ({"grammar": 'start: x\nx: x "a"'}, "no answer"),
        ({"grammar": 'start: ""'}, "no answer"),
        ({"grammar": "hello"}, "no rule start, .*GBNF"),
        ({"grammar": "root ::= missing"}, "missing"),
        ({"grammar": 'root ::= start\nstart ::= "a"'}, "Rule 'start' already exists"),
        ({"grammar": "root ::= " + '"a" ' * MAX_GBNF_CHARACTERS}, f"{MAX_GBNF_CHARACTERS}"),
        ({"grammar": "root ::= " + "(" * 30_000}, "GBNF"),
        ({"grammar": "start: <nothing>"}, "nothing"),
        ({"structural_tag": {}}, "structural_tag: it has no structures"),
        ({"structural_tag": {**CALLS, "triggers": ["<g"]}}, "structural_tag.triggers: none .*'<f=a>'"),
        ({"structural_tag": {"structures": [], "triggers": []}}, "at least one tag"),
        (
            {"structural_tag": {**CALLS, "triggers": [str(each) for each in range(65)]}},
            "triggers: .*65; at most 64",
        ),
        (_tag({"type": "const_string", "value": "<" * 40_000}), "32768 characters"),
        ({"grammar": "\n" * 120_000}, "GBNF of 120000 characters"),
        (
            {
                "structural_tag": {
                    "structures": [{"begin": "a", "schema": {"items": {"not": {}}}, "end": ""}],
                    "triggers": ["a"],
                }
            },
            r"structures\[0\].schema#/items: .*not",
        ),
        (
            {"structural_tag": {"structures": [{"begin": 5, "schema": {}, "end": ""}], "triggers": ["a"]}},
            r"structures\[0\].begin: it is '5'",
        ),
        ({"structural_tag": {"structures": [7], "triggers": ["a"]}}, r"structures\[0\]: .*object"),
        ({"structural_tag": {"format": {}, "more": 1}}, "'more' is not supported"),
        (_tag({"type": "qwen"}), "format.type: 'qwen' is not supported; known: const_string"),
        (
            _tag({"type": "sequence", "elements": [{"type": "any_text"}, INTEGER]}),
            r"elements\[0\]: any_text must be the last",
        ),
        (
            _tag({"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": "a</think>"}),
            "begin with it",
        ),
        (_tag({"type": "or", "elements": [INTEGER] * 2000}), "more than 1024 parts"),
    ],
)
def test_errors_name_place_and_reason(structured: Form, words: str) -> None:
    with pytest.raises(InvalidValue, match=words) as caught:
        _mask(structured)
    assert str(caught.value.param).startswith("structured_outputs")
    assert len(caught.value.message) < 800
