"""Structural tags: text in which some beginnings oblige the model to a form.

Two notations are read:

    {"structures": [{"begin": "<f>", "schema": {...}, "end": "</f>"}], "triggers": ["<f"]}

of vLLM's and FastDeploy's first versions, and ``{"type": "structural_tag", "format": {...}}`` of the newer
ones, whose formats are those of ``_FORMATS``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from llguidance import regex_to_lark

from ernie_backend.grammar.json_schema import check_enforced
from ernie_backend.grammar.parts import ANY_TEXT, Grammar, SpecialTokens, json_rule, literal
from ernie_wire.errors import InvalidValue
from ernie_wire.structured_outputs import FIELD

_NAME = f"{FIELD}.structural_tag"
MAX_PARTS = 1024
MAX_TRIGGERS = 64
MAX_CHARACTERS = 32 << 10
"""Of all texts together: special tokens are searched for in them."""


def tags_grammar(tag: Mapping[str, Any], special: SpecialTokens) -> Grammar:
    """Return the grammar of a structural tag.

    Args:
        tag: in one of the notations.
        special: tokens that texts of it may have.

    Raises:
        InvalidValue: a field is missing, unknown or of another type.
    """
    maker = _Maker(special)
    if "format" in tag:
        fields = _fields(_NAME, tag, format=dict)
        part = maker.part(f"{_NAME}.format", fields["format"], is_last=True)
    else:
        fields = _fields(_NAME, tag, structures=list, triggers=list)
        part = maker.structures(fields["structures"], fields["triggers"])
    return Grammar(part, maker.rules)


class _Maker:
    """Makes the parts of formats, and collects the rules that these need."""

    def __init__(self, special: SpecialTokens) -> None:
        self._special = special
        self._num_characters = 0
        self._rules = [f"TEXT: {ANY_TEXT}"]

    @property
    def rules(self) -> str:
        """The lines of all rules."""
        return "".join(f"{rule}\n" for rule in self._rules)

    def part(self, name: str, form: object, *, is_last: bool) -> str:
        """Return the part of a format.

        Args:
            name: of the field, for errors.
            form: the format.
            is_last: nothing follows it in the answer.
        """
        kind = str(form.get("type")) if isinstance(form, dict) else ""
        if kind == "any_text" and not is_last:
            raise _error(name, "any_text must be the last of the answer, or the content of a tag with an end")
        if kind not in _FORMATS:
            raise _error(f"{name}.type", f"{kind[:40]!r} is not supported; known: {', '.join(_FORMATS)}")
        return self._rule(_FORMATS[kind](self, name, form, is_last))

    def structures(self, structures: list[Any], triggers: list[Any]) -> str:
        """Return the part of the older notation."""
        tags = []
        for index, structure in enumerate(structures):
            name = f"{_NAME}.structures[{index}]"
            fields = _fields(name, structure, begin=str, schema=(dict, bool), end=str)
            tags.append(
                (
                    fields["begin"],
                    f"{self._value(f'{name}.schema', fields['schema'])} {self._literal(fields['end'])}",
                )
            )
        return f"({self._calls(_NAME, triggers, tags)})* TEXT"

    def _value(self, name: str, schema: Mapping[str, Any] | bool) -> str:
        check_enforced(name, schema)
        self._rules.append(json_rule(rule := f"json{len(self._rules)}", schema, name))
        return rule

    def _rule(self, body: str, attributes: str = "") -> str:
        if len(self._rules) >= MAX_PARTS:
            raise _error(_NAME, f"it has more than {MAX_PARTS} parts; make it smaller")
        rule = f"tag{len(self._rules)}"
        self._rules.append(f"{rule}{attributes}: {body}")
        return rule

    def _const(self, name: str, form: object, _is_last: bool) -> str:
        return self._literal(_fields(name, form, value=str)["value"])

    def _json(self, name: str, form: object, _is_last: bool) -> str:
        return self._value(f"{name}.json_schema", _fields(name, form, json_schema=(dict, bool))["json_schema"])

    def _regex(self, name: str, form: object, _is_last: bool) -> str:
        return f"/{regex_to_lark(_fields(name, form, pattern=str)['pattern'], 'd')}/"

    def _text(self, name: str, form: object, _is_last: bool) -> str:
        _fields(name, form)
        return "TEXT"

    def _sequence(self, name: str, form: object, is_last: bool) -> str:
        elements = _fields(name, form, elements=list)["elements"]
        last = len(elements) - 1
        return " ".join(
            self.part(f"{name}.elements[{index}]", each, is_last=is_last and index == last)
            for index, each in enumerate(elements)
        )

    def _or(self, name: str, form: object, is_last: bool) -> str:
        elements = _fields(name, form, elements=list)["elements"]
        return " | ".join(
            self.part(f"{name}.elements[{index}]", each, is_last=is_last) for index, each in enumerate(elements)
        )

    def _tag(self, name: str, form: object, is_last: bool) -> str:
        begin, rest = self._tag_parts(name, form, is_last)
        return f"{self._literal(begin)} {rest}"

    def _tag_parts(self, name: str, form: object, is_last: bool) -> tuple[str, str]:
        """Return the beginning of a tag as text, and the rest of it as a part."""
        fields = _fields(name, form, begin=str, content=dict, end=str)
        end = fields["end"]
        if fields["content"].get("type") == "any_text" and end:
            return fields["begin"], self._text_until(f"{name}.end", end)
        content = self.part(f"{name}.content", fields["content"], is_last=is_last and not end)
        return fields["begin"], f"{content} {self._literal(end)}"

    def _text_until(self, name: str, end: str) -> str:
        """Return the part of a text that goes on to the first ``end``."""
        part = self._literal(end)
        if part.startswith("<["):
            return self._rule(f"TEXT {part}")
        if "<[" in part.replace(json.dumps(end), ""):
            raise _error(name, f"{end!r} has a special token after its beginning; begin with it")
        return self._rule(f"TEXT {part}", "[lazy]")

    def _triggered(self, name: str, form: object, _is_last: bool) -> str:
        optional = {"at_least_one": bool, "stop_after_first": bool}
        fields = _fields(name, form, optional, triggers=list, tags=list)
        tags = [
            self._tag_parts(f"{name}.tags[{index}]", tag, False) for index, tag in enumerate(fields["tags"])
        ]
        calls = self._calls(name, fields["triggers"], tags)
        is_needed = fields.get("at_least_one", False)
        if fields.get("stop_after_first", False):
            return calls if is_needed else f"{calls} | TEXT"
        return f"({calls}){'+' if is_needed else '*'} TEXT"

    def _calls(self, name: str, triggers: list[Any], tags: list[tuple[str, str]]) -> str:
        """Return the alternatives of any text up to a trigger, which one of the tags that begin so follows.

        Args:
            name: of the field, for errors.
            triggers: beginnings of tags.
            tags: the beginning of each as text, and its rest as a part.
        """
        if len(triggers) > MAX_TRIGGERS:
            raise _error(f"{name}.triggers", f"they are {len(triggers)}; at most {MAX_TRIGGERS} are allowed")
        followed: dict[str, list[str]] = {each: [] for each in triggers if isinstance(each, str) and each}
        for begin, rest in tags:
            trigger = next(filter(begin.startswith, followed), None)
            if trigger is None:
                raise _error(f"{name}.triggers", f"none of them is the beginning of {begin[:80]!r}")
            followed[trigger].append(self._rule(f"{self._literal(begin[len(trigger) :])} {rest}"))
        if not tags:
            raise _error(name, "it must have at least one tag")
        return " | ".join(
            f"{self._text_until(f'{name}.triggers', trigger)} ({' | '.join(rules)})"
            for trigger, rules in followed.items()
            if rules
        )

    def _literal(self, text: str) -> str:
        self._num_characters += len(text)
        if self._num_characters > MAX_CHARACTERS:
            raise _error(_NAME, f"its texts have more than {MAX_CHARACTERS} characters; make them shorter")
        return literal(text, self._special)


def _fields(
    name: str,
    value: object,
    optional: Mapping[str, type] | None = None,
    /,
    **needed: type | tuple[type, ...],
) -> dict[str, Any]:
    """Return an object after checking that it has these fields, of these types, and no others but ``type``."""
    if not isinstance(value, dict):
        raise _error(name, "it must be an object")
    types = {**needed, **(optional or {}), "type": str}
    for field, found in value.items():
        if field not in types:
            raise _error(name, f"{str(field)[:40]!r} is not supported; known: {', '.join(types)}")
        if not isinstance(found, types[field]):
            raise _error(f"{name}.{field}", f"it is {str(found)[:40]!r}, which has the wrong type")
    for field in needed:
        if field not in value:
            raise _error(name, f"it has no {field}")
    return value


def _error(name: str, reason: str) -> InvalidValue:
    return InvalidValue(f"{name}: {reason}", FIELD)


_FORMATS: Mapping[str, Callable[[_Maker, str, object, bool], str]] = {
    "const_string": _Maker._const,
    "json_schema": _Maker._json,
    "regex": _Maker._regex,
    "any_text": _Maker._text,
    "sequence": _Maker._sequence,
    "or": _Maker._or,
    "tag": _Maker._tag,
    "triggered_tags": _Maker._triggered,
}
