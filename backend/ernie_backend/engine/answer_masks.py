"""The token masks of a model's answers: grammars in the format that the model writes its answers in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ernie_backend.chat.formats import AnswerFormat
from ernie_backend.chat.tokenizer import NullTokenizer, Tokenizer
from ernie_backend.grammar.compiler import GrammarCompiler, PendingMask
from ernie_backend.grammar.parts import NEWLINES, literal
from ernie_backend.grammar.sources import structured_grammar
from ernie_backend.request.sampling import ResolvedSampling
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
        self, structured: Mapping[str, Any] | None, prompt_ids: tuple[int, ...], sampling: ResolvedSampling
    ) -> PendingMask | None:
        """Return the mask of an answer, whose grammar other threads begin to compile; None: it is free.

        After a prompt that ends within thinking, the grammar begins after ``</think>``.

        Raises:
            InvalidValue: ``structured`` is not a grammar.
        """
        if structured is None:
            return None
        compiler = self._compiler
        grammar = structured_grammar(structured, compiler.special_tokens)
        excluded_ids = compiler.eos_token_ids - sampling.eos_token_ids
        tags = self.format.think_tags
        if tags is None or not tags.are_open(prompt_ids):
            return PendingMask(compiler.submit(grammar.source()), excluded_ids)
        source = grammar.source(*self._frame())
        return PendingMask(compiler.submit(source), excluded_ids, tags.end, compiler.eos_token_ids)

    def _frame(self) -> tuple[str, str]:
        """Return the parts of a grammar before and after an answer that follows thinking."""
        if self.format.reasoning_parser != "ernie-x1":
            return NEWLINES, ""
        begin, end = (literal(tag, self._compiler.special_tokens) for tag in ("<response>", "</response>"))
        return f"{NEWLINES} {begin} {NEWLINES}", f"{NEWLINES} {end} {NEWLINES}"

    @cached_property
    def _compiler(self) -> GrammarCompiler:
        if isinstance(self.tokenizer, NullTokenizer):
            raise InvalidValue(
                f"{FIELD} needs a tokenizer, and the model's directory has none; leave it out", FIELD
            )
        return GrammarCompiler(self.tokenizer, self.eos_token_ids)
