"""Answers written down with their structural tokens, cut in any way, and put together as clients do it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from ernie_frontend.parsing.answer_parser import AnswerDelta, AnswerFormat, AnswerParser, ParsedAnswer, ToolCall
from ernie_wire.marked_text import Mark, MarkedText

_TOKEN = re.compile("«([^»]*)»")


def transcript(written: str) -> MarkedText:
    """Return an answer in which «think» stands for the token ``<think>``, and <think> for its characters."""
    text, marks, place = "", [], 0
    for token in _TOKEN.finditer(written):
        text += written[place : token.start()]
        marks.append(Mark(len(text), len(text) + len(token[1]) + 2, 7))
        text += f"<{token[1]}>"
        place = token.end()
    return MarkedText(text + written[place:], tuple(marks))


def pieces(answer: MarkedText, cuts: Iterable[int]) -> list[MarkedText]:
    """Return the answer cut at these places, or before the tokens that they would divide."""
    length = len(answer.text)
    places = sorted({0, length, *(answer.place_before(min(cut, length)) for cut in cuts)})
    return [answer.cut(start, end) for start, end in pairwise(places)]


def streamed(form: AnswerFormat, prompt_tag: str, parts: Sequence[MarkedText]) -> ParsedAnswer:
    """Return the answer that a client of a stream has, without the calls that did not become complete."""
    parser = AnswerParser(form, prompt_tag)
    deltas = [*map(parser.push, parts), parser.finish()]
    return ParsedAnswer(
        "".join(delta.reasoning for delta in deltas),
        "".join(delta.content for delta in deltas),
        tuple(call for index, call in _assembled(deltas).items() if index in parser.completed_calls),
    )


def _assembled(deltas: Sequence[AnswerDelta]) -> dict[int, ToolCall]:
    calls: dict[int, ToolCall] = {}
    for part in (part for delta in deltas for part in delta.tool_calls):
        if part.index in calls:
            name, begun = calls[part.index]
            assert part.name is None
            calls[part.index] = ToolCall(name, begun + part.arguments)
        else:
            assert part.name, "the first part has the name"
            assert (part.index, part.arguments) == (len(calls), ""), "and no arguments; indices are in order"
            calls[part.index] = ToolCall(part.name, "")
    return calls
