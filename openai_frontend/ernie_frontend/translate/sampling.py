"""The sampling fields of a request as ``SamplingParameters``, which checks their limits."""

from __future__ import annotations

from dataclasses import fields, replace

from ernie_frontend.schema.common import GenerationFields
from ernie_wire.sampling import MAX_SEED, SamplingParameters


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
