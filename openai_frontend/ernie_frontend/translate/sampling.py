"""The sampling fields of a request as ``SamplingParameters``, which checks their limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from ernie_frontend.schema.common import GenerationFields
from ernie_wire.errors import InvalidValue
from ernie_wire.sampling import MAX_SEED, SamplingParameters

_INT32_LIMIT = 2**31


def sampling_parameters(
    body: GenerationFields, max_tokens: int | None, logprobs: int | None
) -> SamplingParameters:
    """Return what a request asks of the sampler; what it does not say is left to the model's defaults.

    Fields have the same names in both, but for these two, which the routes say in several ways.

    Raises:
        InvalidValue: a value outside its limits.
    """
    values = {"max_tokens": max_tokens, "logprobs": logprobs}
    others = (each.name for each in fields(SamplingParameters) if each.name not in values)
    return SamplingParameters.from_json({**{name: getattr(body, name) for name in others}, **values})


def with_seed_offset(sampling: SamplingParameters, offset: int) -> SamplingParameters:
    """Return the sampling of answer number ``offset`` to a prompt: a given seed counts on, and so differs."""
    if sampling.seed is None or sampling.seed == -1 or offset == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + offset) % (MAX_SEED + 1))


def check_token_ids(name: str, token_ids: Sequence[int], vocab_size: int | None) -> None:
    """Check the token ids of a prompt.

    Args:
        name: the field they are in.
        token_ids: the ids.
        vocab_size: ids must be below it; None if the model does not tell now.

    Raises:
        InvalidValue: an id that is no token's.
    """
    limit = vocab_size or _INT32_LIMIT
    for token_id in token_ids:
        if not 0 <= token_id < limit:
            raise InvalidValue(f"{name} holds the token id {token_id}; ids must be in [0, {limit - 1}]", name)
