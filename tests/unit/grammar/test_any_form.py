"""Whatever a client sends as a form is a grammar that answers can follow, or a bad request: nothing else."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.grammar.compiler import GrammarCompiler
from ernie_backend.grammar.sources import structured_grammar
from ernie_wire.errors import InvalidValue
from ernie_wire.sampling import SamplingParameters
from support.grammar_walks import walk
from support.paths import DENSE

END = 2
TOKENIZER = Tokenizer.from_directory(DENSE)
COMPILER = GrammarCompiler(TOKENIZER, (END,))

SYMBOLS = st.text(alphabet='ab"\\/()[]{}<>|*+?~&.^$-,:;=%#@_ \n\té0139', max_size=24)
NAMES = st.sampled_from(["a", "b", "/", "~", ""])
NUMBERS = st.integers(-3, 9) | st.floats(-3, 9)
WORDS = ["string", "integer", "number", "object", "array", "null", "boolean", "any"]


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    maps, lists = st.dictionaries(NAMES, inner, max_size=3), st.lists(inner, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(WORDS) | st.lists(st.sampled_from(WORDS), max_size=2),
            "properties": maps,
            "patternProperties": maps,
            "required": st.lists(NAMES, max_size=2),
            "additionalProperties": inner,
            "items": inner,
            "prefixItems": lists,
            "anyOf": lists,
            "allOf": lists,
            "oneOf": lists,
            "$ref": st.sampled_from(["#", "#/properties/a", "#/nothing", "other"]),
            "enum": st.lists(NUMBERS | NAMES, max_size=3),
            "pattern": SYMBOLS,
            "format": st.sampled_from(["date", "uuid", "other"]),
            **dict.fromkeys(
                ("minimum", "maximum", "multipleOf", "minLength", "maxItems", "minProperties"), NUMBERS
            ),
        },
    )


TAGS = st.recursive(
    st.fixed_dictionaries({"type": st.just("const_string"), "value": SYMBOLS})
    | st.fixed_dictionaries({"type": st.just("regex"), "pattern": SYMBOLS})
    | st.just({"type": "any_text"}),
    lambda inner: (
        st.fixed_dictionaries(
            {"type": st.sampled_from(["or", "sequence"]), "elements": st.lists(inner, max_size=3)}
        )
        | st.fixed_dictionaries({"type": st.just("tag"), "begin": SYMBOLS, "content": inner, "end": SYMBOLS})
        | st.fixed_dictionaries(
            {
                "type": st.just("triggered_tags"),
                "triggers": st.lists(SYMBOLS, max_size=2),
                "tags": st.lists(inner, max_size=2),
            }
        )
    ),
    max_leaves=5,
)
FORMS = st.one_of(
    st.fixed_dictionaries({"regex": SYMBOLS}),
    st.fixed_dictionaries({"choice": st.lists(SYMBOLS, max_size=3)}),
    st.fixed_dictionaries(
        {"grammar": SYMBOLS.map("start: {}".format) | SYMBOLS.map("root ::= {}".format) | SYMBOLS}
    ),
    st.fixed_dictionaries(
        {"json": st.recursive(st.booleans(), _schemas, max_leaves=6)}, optional={"whitespace_pattern": SYMBOLS}
    ),
    st.fixed_dictionaries({"structural_tag": TAGS.map(lambda form: {"format": form})}),
)


@settings(max_examples=120, deadline=None)
@given(form=FORMS, seed=st.integers(0, 9))
def test_a_form_is_a_grammar_or_a_bad_request(form: dict[str, Any], seed: int) -> None:
    try:
        asked = SamplingParameters.from_json({"structured_outputs": form}).structured_outputs
        assert asked is not None
        mask = COMPILER.compile(structured_grammar(asked, COMPILER.special_tokens).source()).start()
        walk(mask, TOKENIZER, (END,), random.Random(seed), max_tokens=20)  # there is always a token to choose
    except InvalidValue as error:
        assert str(error.param).startswith("structured_outputs"), error  # noqa: PT017
