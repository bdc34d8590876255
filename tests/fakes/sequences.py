"""Sequences for tests of the engine, without a tokenizer: token n is the character with that code."""

from __future__ import annotations

from ernie_backend.engine.answer_text import AnswerText
from ernie_backend.engine.detokenizer import Detokenizer
from ernie_backend.engine.sequence import ResolvedSampling, Sequence
from ernie_backend.engine.stop import StopMatcher
from ernie_backend.runner.sampler import Sampler
from ernie_kernels.reference import ReferenceOps

GREEDY = 0.0


def reference_sampler(vocab_size: int) -> Sampler:
    """Return a sampler on the golden model of choices."""
    return Sampler(ReferenceOps(), vocab_size)


class CharacterTokens:
    """Token n stands for the character with code n + 48, so that tokens 0 to 9 are digits."""

    structural_ids: frozenset[int] = frozenset()

    def token_bytes(self, token_id: int) -> bytes:
        """Return the character's UTF-8."""
        return chr(token_id + 48).encode()


def make_sequence(
    request_id: str,
    prompt: tuple[int, ...],
    max_tokens: int,
    *,
    stop: tuple[str, ...] = (),
    eos: frozenset[int] = frozenset(),
    stream: bool = True,
    prompt_text: str | None = None,
    priority: int = 0,
) -> Sequence:
    """Return a greedy sequence."""
    return Sequence(
        request_id=request_id,
        prompt_ids=prompt,
        sampling=ResolvedSampling(GREEDY, 1.0, 0, 0, max_tokens, eos),
        answer=AnswerText(Detokenizer(CharacterTokens()), StopMatcher(stop)),
        stream=stream,
        prompt_text=prompt_text,
        priority=priority,
    )
