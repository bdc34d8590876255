"""The sampling fields of a request as ``SamplingParameters``, which checks their limits."""

from __future__ import annotations

from ernie_frontend.schema.common import GenerationFields
from ernie_wire.sampling import SamplingParameters


def sampling_parameters(body: GenerationFields, max_tokens: int | None) -> SamplingParameters:
    """Return what a request asks of the sampler; what it does not say is left to the model's defaults.

    Raises:
        InvalidValue: a value outside its limits.
    """
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return SamplingParameters(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=body.seed,
        stop=tuple(stop),
        ignore_eos=bool(body.ignore_eos),
    )
