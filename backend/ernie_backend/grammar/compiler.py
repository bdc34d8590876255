"""Compiles grammars on threads of its own, and keeps those of the last requests.

llguidance compiles most grammars in about a millisecond, and the largest that the limits admit in some seconds.
It releases Python's lock meanwhile, so neither the engine's loop nor other requests wait. Its limits
are counts of work, not seconds, which makes them the same on every machine.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.grammar.errors import grammar_error
from ernie_backend.grammar.parts import special_tokens
from ernie_backend.grammar.token_mask import GrammarMask, MaskAfter, exclude
from ernie_backend.grammar.vocabulary import vocabulary
from ernie_backend.request.sampling import TokenMask
from ernie_wire.errors import InvalidValue
from ernie_wire.structured_outputs import FIELD

MAX_CACHED = 128
"""Grammars, each with the lexer states of one answer at most."""
MAX_CACHED_BYTES = 16 << 20
"""Of their sources."""
MAX_SOURCE_BYTES = 1 << 20
NUM_WORKERS = 2

_OPTIONS = '\n%llguidance {"no_forcing": true}\n'
"""At the end, where it counts: the model, not llguidance, divides a text into tokens."""
_LIMITS = LLParserLimits(
    max_items_in_row=4_000,  # twice the default, for 1,000 optional properties of one object
    max_grammar_size=40_000,  # of 500,000: the time grows with the square of the properties, and more
    max_lexer_states=50_000,  # a fifth of the default: 50 to 100 MB for one answer
    verbose_errors=False,
)


@dataclass(frozen=True)
class CompiledGrammar:
    """A grammar that answers can be started with, by any thread."""

    matcher: LLMatcher

    def start(self, excluded_ids: Collection[int] = ()) -> GrammarMask:
        """Return the mask of a new answer, which never allows ``excluded_ids``."""
        return GrammarMask(self.matcher.deep_copy(), excluded_ids)


@dataclass(frozen=True)
class PendingMask:
    """The mask of an answer whose grammar is being compiled.

    Attributes:
        grammar: in future.
        excluded_ids: tokens that are never allowed.
        begin_id: the token after which the grammar begins; None: with the answer.
        end_ids: tokens that are not allowed before ``begin_id``.
    """

    grammar: Future[CompiledGrammar]
    excluded_ids: frozenset[int] = frozenset()
    begin_id: int | None = None
    end_ids: frozenset[int] = frozenset()

    def start(self) -> TokenMask:
        """Return the mask, after waiting for the grammar; raises what ``GrammarCompiler.submit`` says."""
        mask = self.grammar.result().start(self.excluded_ids)
        return mask if self.begin_id is None else MaskAfter(mask, self.begin_id, self.end_ids)


class GrammarCompiler:
    """Compiles for one model.

    Args:
        tokenizer: of the model.
        eos_token_ids: tokens that end its answers.

    Attributes:
        tokenizer: see above.
        special_tokens: those that sources may name.
        eos_token_ids: those that the tokenizer has.
    """

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: Collection[int]) -> None:
        self.tokenizer = tokenizer
        self.special_tokens = special_tokens(tokenizer)
        self.eos_token_ids = frozenset(each for each in eos_token_ids if each < tokenizer.vocab_size)
        self._vocabulary: LLTokenizer | None = None
        self._lock = threading.Lock()
        self._workers = ThreadPoolExecutor(NUM_WORKERS, "grammar")  # a thread begins with the first grammar
        self._cache: OrderedDict[str, Future[CompiledGrammar]] = OrderedDict()
        self._cached_bytes = 0

    def compile(self, source: str) -> CompiledGrammar:
        """Return a compiled grammar, after waiting for it: see ``submit``."""
        return self.submit(source).result()

    def submit(self, source: str) -> Future[CompiledGrammar]:
        """Begin to compile a grammar, unless that has begun or been done before.

        Args:
            source: in llguidance's variant of Lark.

        Returns:
            The grammar in future; ``result`` raises InvalidValue if it is wrong, too large or empty.
        """
        with self._lock:
            found = self._cache.get(source)
            if found is not None:
                self._cache.move_to_end(source)
                return found
            future = self._cache[source] = self._workers.submit(self._compiled, source)
            self._cached_bytes += len(source)
            while len(self._cache) > MAX_CACHED or (
                self._cached_bytes > MAX_CACHED_BYTES and len(self._cache) > 1
            ):
                self._cached_bytes -= len(self._cache.popitem(last=False)[0])
            return future

    def _compiled(self, source: str) -> CompiledGrammar:
        if len(source) > MAX_SOURCE_BYTES:
            raise InvalidValue(
                f"the grammar of the answer is {len(source)} bytes; at most {MAX_SOURCE_BYTES} are allowed",
                FIELD,
            )
        matcher = LLMatcher(self._tokens(), source + _OPTIONS, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise grammar_error(source, matcher.get_error(), _first_error)
        mask = np.zeros(-(-self.tokenizer.vocab_size // 32), np.uint32)
        matcher.unsafe_compute_mask_ptr(
            mask.ctypes.data, mask.nbytes
        )  # every answer begins with this work done
        exclude(mask, self.eos_token_ids)
        if matcher.stop_reason().endswith("TooComplex"):
            raise InvalidValue(f"{FIELD}: the grammar is too complex; make it smaller", FIELD)
        if not mask.any():
            raise InvalidValue(f"{FIELD}: no answer of at least one token fits the grammar", FIELD)
        return CompiledGrammar(matcher)

    def _tokens(self) -> LLTokenizer:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = vocabulary(self.tokenizer, self.eos_token_ids)
            return self._vocabulary


def _first_error(source: str) -> str:
    return LLMatcher.validate_grammar(source, limits=_LIMITS)
