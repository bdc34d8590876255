"""The token masks of a model's answers: grammars in the format that the model writes its answers in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from ernie_backend.chat.formats import AnswerFormat
from ernie_backend.chat.tokenizer import NullTokenizer, Tokenizer
from ernie_backend.grammar.compiler import GrammarCompiler, PendingMask
from ernie_backend.grammar.errors import ErrorOf
from ernie_backend.grammar.parts import NEWLINES, Grammar, literal
from ernie_backend.grammar.sources import structured_grammar
from ernie_backend.grammar.tool_grammar import CallTags, of_tools, tool_grammar, unchecked_tools
from ernie_backend.request.sampling import ResolvedSampling
from ernie_wire.conversation import ToolRequest
from ernie_wire.errors import InvalidValue
from ernie_wire.structured_outputs import FIELD


@dataclass(frozen=True)
class AnswerMasks:
    """Makes the masks of one model.

    Attributes:
        tokenizer, eos_token_ids: of the model.
        format: how its answers are written.
    """

    tokenizer: Tokenizer | NullTokenizer
    eos_token_ids: tuple[int, ...]
    format: AnswerFormat

    def pending(
        self,
        structured: Mapping[str, Any] | None,
        tools: ToolRequest | None,
        prompt_ids: tuple[int, ...],
        sampling: ResolvedSampling,
    ) -> PendingMask | None:
        """Return the mask of an answer, whose grammar other threads begin to compile.

        It is None if the answer is free, or has no token. After a prompt that ends within thinking, the grammar
        begins after ``</think>``.

        Raises:
            InvalidValue: ``structured`` is not a grammar.
        """
        if sampling.max_tokens == 0 or (structured is None and tools is None):
            return None
        tags = self.format.think_tags
        begin_id = tags.end if tags is not None and tags.are_open(prompt_ids) else None
        before = "" if begin_id is None else NEWLINES
        answer = None if structured is None else self._answer(structured, is_first=begin_id is None)

        def source(unchecked: frozenset[str] = frozenset()) -> str | None:
            grammar = answer if tools is None else tool_grammar(tools, self._call_tags, answer, unchecked)
            return None if grammar is None else grammar.source(before)

        tried = [frozenset[str]()]

        def alternative(error: InvalidValue, error_of: ErrorOf) -> str:
            unchecked = frozenset[str]() if tools is None else unchecked_tools(tools, error_of)
            if unchecked in tried:
                raise error if structured is not None else InvalidValue(of_tools(error), "tools")
            tried.append(unchecked)
            return source(unchecked) or ""

        compiler, first = self._compiler, source()
        if first is None:
            return None
        return PendingMask(
            compiler.submit(first, alternative),
            compiler.eos_token_ids - sampling.eos_token_ids,
            begin_id,
            compiler.eos_token_ids,
        )

    def _answer(self, structured: Mapping[str, Any], *, is_first: bool) -> Grammar:
        """Return the grammar of an answer without calls, which is all of it or follows thinking."""
        special = self._compiler.special_tokens
        grammar = self._grammar_of(json.dumps(structured))
        if isinstance(grammar, InvalidValue):
            raise InvalidValue(grammar.message, grammar.param)
        if is_first or self.format.reasoning_parser != "ernie-x1":
            return grammar
        begin, end = (literal(tag, special) for tag in ("<response>", "</response>"))
        newline = json.dumps("\n")  # which the parser of answers leaves out, and only one
        return Grammar(f"{begin} {newline} {grammar.part} {newline} {end} {NEWLINES}", grammar.rules)

    @cached_property
    def _grammar_of(self) -> Callable[[str], Grammar | InvalidValue]:
        """Returns the grammar of JSON, or its error; remembers it, since each of ``n`` answers is a request."""
        special = self._compiler.special_tokens

        @lru_cache(maxsize=16)
        def grammar_of(structured: str) -> Grammar | InvalidValue:
            try:
                return structured_grammar(json.loads(structured), special)
            except InvalidValue as error:
                return error

        return grammar_of

    @property
    def _call_tags(self) -> CallTags | None:
        if self.format.tool_call_parser is None:
            return None
        begin, end = (self._compiler.special_tokens[tag] for tag in ("<tool_call>", "</tool_call>"))
        newline_ids = None if self.format.tool_call_parser == "ernie-x1" else self._newline_ids
        return CallTags(begin, end, self._compiler.eos_token_ids, newline_ids)

    @cached_property
    def _newline_ids(self) -> frozenset[int]:
        ids = range(self.tokenizer.vocab_size)
        return frozenset(each for each in ids if not self.tokenizer.token_bytes(each).strip(b"\n"))

    @cached_property
    def _compiler(self) -> GrammarCompiler:
        if isinstance(self.tokenizer, NullTokenizer):
            raise InvalidValue(
                f"{FIELD} needs a tokenizer, and the model's directory has none; leave it out", FIELD
            )
        return GrammarCompiler(self.tokenizer, self.eos_token_ids)
