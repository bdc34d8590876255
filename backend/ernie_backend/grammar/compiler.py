"""Compiles grammars on threads of its own, each at first in a process of its own (``trial``).

llguidance compiles most grammars in some milliseconds, and the largest that the limits admit in some seconds.
It releases Python's lock meanwhile, so neither the engine's loop nor other requests wait.

Every answer has a grammar that was compiled for it alone; only what the trial found is kept for the next one.
Copies of a matcher share a lexer, whose limits count the states of all of them: one answer would use up what
others need.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

from llguidance import LLMatcher

from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.grammar.errors import ErrorOf, grammar_error
from ernie_backend.grammar.matcher import KILLED, Matchers
from ernie_backend.grammar.parts import special_tokens
from ernie_backend.grammar.token_mask import GrammarMask, MaskAfter
from ernie_backend.grammar.trial import STACK_BYTES as TRIAL_STACK_BYTES
from ernie_backend.grammar.trial import Trial
from ernie_backend.grammar.vocabulary import vocabulary
from ernie_backend.request.sampling import TokenMask
from ernie_wire.errors import InvalidValue
from ernie_wire.structured_outputs import FIELD

MAX_TRIED = 1024
"""Grammars whose trial is remembered."""
MAX_SOURCE_CHARACTERS = 1 << 20
NUM_WORKERS = 2
NICENESS = 5
"""Added for a worker: where a processor is busy, the engine's other threads get three quarters of it."""
STACK_BYTES = 4 * TRIAL_STACK_BYTES
"""Of a worker: what a trial survives, it survives."""

Alternative = Callable[[InvalidValue, ErrorOf], str]
"""Returns another grammar, given the error of a first one; or raises InvalidValue."""


@dataclass(frozen=True)
class CompiledGrammar:
    """A grammar that answers can be started with, by any thread; they share llguidance's limits."""

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

    Raises:
        InvalidValue: the tokenizer has none.
    """

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: Collection[int]) -> None:
        self.tokenizer = tokenizer
        self.special_tokens = special_tokens(tokenizer)
        self.eos_token_ids = frozenset(each for each in eos_token_ids if each < tokenizer.vocab_size)
        if not self.eos_token_ids:
            raise InvalidValue(
                f"{FIELD} needs a model whose tokenizer has an end-of-sequence token; leave it out", FIELD
            )
        self._vocabulary = vocabulary(tokenizer, self.eos_token_ids)
        self._made: Matchers | None = None
        self._of_worker = threading.local()
        self._making = threading.Lock()
        self._lock = threading.Lock()
        # A thread begins with the first grammar. Those that are known to be good do not wait for new ones, of
        # which each may take seconds.
        self._workers = ThreadPoolExecutor(NUM_WORKERS, "grammar", _give_way)
        self._worker_of_known = ThreadPoolExecutor(1, "known-grammar", _give_way)
        self._errors: OrderedDict[bytes, InvalidValue | None] = OrderedDict()  # by the source's hash

    def compile(self, source: str) -> CompiledGrammar:
        """Return a compiled grammar, after waiting for it: see ``submit``."""
        return self.submit(source).result()

    def submit(self, source: str, alternative: Alternative | None = None) -> Future[CompiledGrammar]:
        """Begin to compile the grammar of one answer.

        Args:
            source: in llguidance's variant of Lark.
            alternative: gives another source if one cannot be compiled, and at last an error; called by the
                thread that compiles.

        Returns:
            The grammar in future; ``result`` raises InvalidValue if it is wrong, too large or empty.
        """
        with self._lock:
            is_known = self._errors.get(_key(source), "new") is None
            workers = self._worker_of_known if is_known else self._workers
            others = threading.stack_size(STACK_BYTES)
            future = workers.submit(self._compiled_or, source, alternative)  # may start a thread
            threading.stack_size(others)
            return future

    def _compiled_or(self, source: str, alternative: Alternative | None) -> CompiledGrammar:
        try:
            return self._compiled(source)
        except InvalidValue as error:
            if alternative is None:
                raise
            other = alternative(error, self._error_of)
        return self._compiled_or(other, alternative)

    def _compiled(self, source: str) -> CompiledGrammar:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise InvalidValue(
                f"the grammar of the answer has {len(source)} characters; at most {MAX_SOURCE_CHARACTERS} are "
                "allowed",
                FIELD,
            )
        if self._made is None:
            self._own_trial()  # both vocabularies are made at the same time
        matchers = self._matchers()
        error = self._error_of(source)
        if error is not None:
            raise InvalidValue(error.message, error.param)
        matcher, text = matchers.make(source)
        if text:
            raise grammar_error(source, text, self._own_trial().error_of)
        return CompiledGrammar(matcher)

    def _error_of(self, source: str) -> InvalidValue | None:
        """Return what is wrong with a grammar, by trial or from memory."""
        key = _key(source)
        with self._lock:
            if key in self._errors:
                self._errors.move_to_end(key)
                return self._errors[key]
        trial = self._own_trial()
        text = trial.error_of(source)
        error = grammar_error(source, text, trial.error_of) if text else None
        if text == KILLED:
            return error
        with self._lock:
            self._errors[key] = error
            if len(self._errors) > MAX_TRIED:
                self._errors.popitem(last=False)
        return error

    def _own_trial(self) -> Trial:
        """Return the process of this worker."""
        trial: Trial | None = getattr(self._of_worker, "trial", None)
        if trial is None:
            trial = self._of_worker.trial = Trial(self._vocabulary)
            trial.start()
        return trial

    def _matchers(self) -> Matchers:
        with self._making:
            if self._made is None:
                self._made = Matchers(self._vocabulary)
            return self._made


def _key(source: str) -> bytes:
    return sha256(source.encode(errors="surrogatepass")).digest()


def _give_way() -> None:
    """Let the engine's other threads go first: a thread has its own niceness, which a trial inherits."""
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):  # a sandbox may not let a thread do that
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)
