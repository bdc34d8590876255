"""The sampling fields of a request as ``SamplingParameters``, which checks their limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ernie_frontend.schema.common import GenerationFields
from ernie_wire.errors import InvalidValue
from ernie_wire.sampling import MAX_SEED, SamplingParameters

_SAME_NAME = (
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "bad_words",
    "bad_words_token_ids",
    "seed",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "skip_special_tokens",
    "prompt_logprobs",
)
_INT32_LIMIT = 2**31


def sampling_parameters(
    body: GenerationFields, max_tokens: int | None, logprobs: int | None
) -> SamplingParameters:
    """Return what a request asks of the sampler; what it does not say is left to the model's defaults.

    Raises:
        InvalidValue: a value outside its limits.
    """
    values = {name: getattr(body, name) for name in _SAME_NAME}
    return SamplingParameters.from_json({**values, "max_tokens": max_tokens, "logprobs": logprobs})


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
