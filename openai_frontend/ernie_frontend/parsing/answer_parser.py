"""Divides an answer into reasoning, content and tool calls while it arrives.

Only structural tokens are tags; the same characters in ordinary tokens are text. ``<think>`` begins
thinking and ``</think>`` ends it, as for the engine (docs/thinking.md). The result does not depend on where
the text was cut, with one exception: a call that turns out to be none may have been passed on in part,
which cannot be taken back. Its text is content all the same, and it is not one of ``completed_calls``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ernie_frontend.parsing.call_reader import ToolCallDelta
from ernie_frontend.parsing.content import ContentParser, JsonCalls, TaggedCalls
from ernie_frontend.parsing.reasoning import BEGIN, END, FORMATS, PLAIN, REASONING, Section, Trim
from ernie_wire.marked_text import Marked

JSON_CALLS = "json"
"""The format of forced calls of a model without tokens for calls."""
_TAGGED = {"ernie-45-vl-thinking": False, "ernie-x1": True}
"""Formats with such tokens; whether content may come before the first call."""


@dataclass(frozen=True)
class AnswerFormat:
    """The format of an answer.

    Attributes:
        reasoning_parser: name of the format of reasoning; None: there is none.
        tool_call_parser: the same for tool calls.
        is_continued: the answer continues a text that has begun.
    """

    reasoning_parser: str | None = None
    tool_call_parser: str | None = None
    is_continued: bool = False


class AnswerDelta(NamedTuple):
    """New parts of an answer.

    Attributes:
        reasoning, content: text.
        tool_calls: parts of calls, each with a name or with arguments.
    """

    reasoning: str
    content: str
    tool_calls: tuple[ToolCallDelta, ...]

    def joined(self, following: AnswerDelta) -> AnswerDelta:
        """Return the parts of both."""
        return AnswerDelta(
            self.reasoning + following.reasoning,
            self.content + following.content,
            self.tool_calls + following.tool_calls,
        )


class ToolCall(NamedTuple):
    """A whole call; ``arguments`` are a JSON object."""

    name: str
    arguments: str


class ParsedAnswer(NamedTuple):
    """A whole answer."""

    reasoning: str
    content: str
    tool_calls: tuple[ToolCall, ...]


class AnswerParser:
    """Parses one answer.

    Args:
        form: its format.
        prompt_tag: the last thinking tag of the prompt, which says how the answer begins; or nothing.
    """

    def __init__(self, form: AnswerFormat, prompt_tag: str) -> None:
        self._format = FORMATS.get(form.reasoning_parser or "", PLAIN)
        is_open = prompt_tag == BEGIN and BEGIN in self._format.tags
        self._reasoning = Section(REASONING, is_begun=form.is_continued) if is_open else None
        self._new_reasoning: list[str] = []
        self._content = _content_parser(form, self._format.content)

    @property
    def completed_calls(self) -> frozenset[int]:
        """The indices of the calls that are complete."""
        return frozenset(self._content.completed_calls)

    def push(self, piece: Marked) -> AnswerDelta:
        """Take the next piece of the answer; return what is certain now."""
        place = 0
        for mark in piece.marks:
            self._push_text(piece.text[place : mark.start])
            self._push_token(piece.text[mark.start : mark.end])
            place = mark.end
        self._push_text(piece.text[place:])
        return self._take()

    def finish(self) -> AnswerDelta:
        """Take the end of the answer; return the rest of it."""
        self._content.finish()
        return self._take()

    def _push_text(self, text: str) -> None:
        if self._reasoning is not None:
            self._new_reasoning.append(self._reasoning.push(text))
        else:
            self._content.push(text)

    def _push_token(self, token: str) -> None:
        if self._reasoning is None and token in self._content.TAGS:
            self._content.push_tag(token)
        elif token not in self._format.tags or self._content.is_in_call:
            self._push_text(token)
        elif self._reasoning is not None:
            self._push_tag_in_reasoning(token)
        elif token == BEGIN:
            self._reasoning = Section(REASONING)
        elif token in self._format.sections:
            self._content.begin_section(self._format.sections[token])

    def _push_tag_in_reasoning(self, tag: str) -> None:
        if tag == END:
            self._reasoning = None
            self._content.begin_section(self._format.content)

    def _take(self) -> AnswerDelta:
        reasoning, self._new_reasoning = "".join(self._new_reasoning), []
        content, calls = self._content.take()
        return AnswerDelta(reasoning, content, tuple(calls))


def parse_answer(form: AnswerFormat, prompt_tag: str, answer: Marked) -> ParsedAnswer:
    """Return the parts of a whole answer."""
    parser = AnswerParser(form, prompt_tag)
    whole = parser.push(answer).joined(parser.finish())
    calls: dict[int, ToolCall] = {}
    for part in whole.tool_calls:
        begun = calls.get(part.index, ToolCall(part.name or "", ""))
        calls[part.index] = ToolCall(begun.name, begun.arguments + part.arguments)
    complete = (call for index, call in calls.items() if index in parser.completed_calls)
    return ParsedAnswer(whole.reasoning, whole.content, tuple(complete))


def _content_parser(form: AnswerFormat, trim: Trim) -> ContentParser:
    name = form.tool_call_parser
    if name == JSON_CALLS:
        return JsonCalls(trim, is_begun=form.is_continued)
    if name in _TAGGED:
        return TaggedCalls(trim, is_begun=form.is_continued, follows_text=_TAGGED[name])
    return ContentParser(trim, is_begun=form.is_continued or trim == PLAIN.content)
