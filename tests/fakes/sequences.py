"""Sequences for tests of the engine, without a tokenizer: token n is the character with that code."""

from __future__ import annotations

from collections.abc import Iterable

from ernie_backend.engine.detokenizer import Detokenizer
from ernie_backend.engine.prompt_lookup import PromptLookup
from ernie_backend.engine.request_state import PromptParts, RequestState
from ernie_backend.engine.stop import StopMatcher
from ernie_backend.request.sampling import LogitsProcessor, ResolvedSampling
from ernie_backend.request.sequence import Sequence
from ernie_backend.runner.sampler import Sampler
from ernie_backend.settings.speculative_config import SpeculativeConfig
from ernie_kernels.reference import ReferenceOps
from ernie_kernels.sampling import SamplingFilters

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


def sampled_sequence(
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    index: int = 0,
    min_p: float = 0.0,
    *,
    processors: tuple[LogitsProcessor, ...] = (),
    logprobs: int | None = None,
) -> Sequence:
    """Return a sequence that has generated ``index`` tokens."""
    filters = SamplingFilters(temperature, min_p, top_k, top_p)
    sampling = ResolvedSampling(filters, seed, index + 1, frozenset(), logprobs=logprobs)
    sequence = Sequence("r", (), sampling, processors)
    sequence.token_ids = [0] * index
    return sequence


def make_sequence(
    request_id: str,
    prompt: tuple[int, ...],
    max_tokens: int,
    *,
    eos: frozenset[int] = frozenset(),
    priority: int = 0,
) -> Sequence:
    """Return a greedy sequence."""
    sampling = ResolvedSampling(SamplingFilters(GREEDY), 0, max_tokens, eos)
    return Sequence(request_id=request_id, prompt_ids=prompt, sampling=sampling, priority=priority)


def with_prompt(request_id: str, tokens: Iterable[int], cache_salt: str = "") -> Sequence:
    """Return a sequence that is nothing but these tokens to the KV cache."""
    sampling = ResolvedSampling(SamplingFilters(GREEDY), 0, 1, frozenset())
    return Sequence(request_id, tuple(tokens), sampling, cache_salt=cache_salt)


def make_request(
    request_id: str,
    prompt: tuple[int, ...],
    max_tokens: int,
    *,
    stop: tuple[str, ...] = (),
    includes_stop: bool = False,
    eos: frozenset[int] = frozenset(),
    stream: bool = True,
    prompt_text: str | None = None,
    priority: int = 0,
    speculation: SpeculativeConfig | None = None,
) -> RequestState:
    """Return a greedy request as the engine takes it."""
    sequence = make_sequence(request_id, prompt, max_tokens, eos=eos, priority=priority)
    matcher = StopMatcher(stop, is_included=includes_stop)
    detokenizer = Detokenizer(CharacterTokens())
    lookup = None if speculation is None else PromptLookup(sequence, speculation)
    parts = PromptParts(prompt_text)
    return RequestState(sequence, detokenizer, matcher, stream=stream, prompt=parts, lookup=lookup)
