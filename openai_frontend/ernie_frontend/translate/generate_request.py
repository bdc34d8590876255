"""``GenerateRequest``s from the fields that all endpoints share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from ernie_frontend.schema.common import GenerationFields
from ernie_frontend.translate.structured_outputs import in_clients_words, structured_outputs
from ernie_wire.checks import MAX_TOKEN_ID
from ernie_wire.errors import InvalidValue
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import MAX_SEED, SamplingParameters


@dataclass(frozen=True)
class RequestContext:
    """What is known of a request in addition to its body.

    Attributes:
        request_id: the id of the whole answer; several requests get it with a number appended.
        vocab_size: number of token ids of the model; None or 0 if unknown.
        max_answers: maximum number of answers to one request.
        client_salt: separates the clients' parts of the prefix cache.
        modalities: inputs of the model: ``text``, ``image``, ``video``; None if unknown.
        media_limits: maximum number of media of a request, by modality.
        knows_tools: whether the model's chat template uses tools, or whether that is unknown.
    """

    request_id: str
    vocab_size: int | None
    max_answers: int
    client_salt: str = ""
    modalities: tuple[str, ...] | None = None
    media_limits: Mapping[str, int] = field(default_factory=dict)
    knows_tools: bool = True

    @property
    def highest_token_id(self) -> int:
        """The highest token id that a prompt may have."""
        return self.vocab_size - 1 if self.vocab_size else MAX_TOKEN_ID


def generate_requests(
    body: GenerationFields,
    context: RequestContext,
    prompts: Sequence[GenerateRequest],
    sampling: SamplingParameters,
) -> list[GenerateRequest]:
    """Return the requests for the engine: all answers to the first prompt, then those to the second ...

    Args:
        body: the checked request of the client.
        context: of the request.
        prompts: requests in which only the prompt is set.
        sampling: of the first answer to each prompt.
    """
    number = body.num_candidates
    is_single = len(prompts) * number == 1
    return [
        replace(
            prompt,
            request_id=context.request_id if is_single else f"{context.request_id}-{index}",
            stream=bool(body.stream),
            sampling=_with_seed_offset(sampling, index % number),
            exclude_input_in_output=True,
            return_token_ids=bool(body.return_token_ids or body.has_echo),
            return_marks=True,
            priority=body.priority or 0,
            cache_salt=context.client_salt + (body.cache_salt or ""),
        )
        for index, prompt in enumerate(prompt for prompt in prompts for _ in range(number))
    ]


def _with_seed_offset(sampling: SamplingParameters, offset: int) -> SamplingParameters:
    """Return the sampling of answer number ``offset`` to a prompt, whose seed is ``seed + offset``."""
    if sampling.seed is None or sampling.seed == -1 or offset == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + offset) % (MAX_SEED + 1))


def sampling_parameters(
    body: GenerationFields, max_tokens: int | None, logprobs: int | None
) -> SamplingParameters:
    """Return the sampling parameters of a request; what it leaves out gets the model's defaults.

    Fields have the same names in both, except for these, which are expressed in several ways.

    Raises:
        InvalidValue: a value outside its limits.
    """
    values = {
        "max_tokens": max_tokens,
        "logprobs": logprobs,
        "structured_outputs": structured_outputs(body),
        "reasoning_max_tokens": body.reasoning_limit,
    }
    others = (each.name for each in fields(SamplingParameters) if each.name not in values)
    try:
        return SamplingParameters.from_json({**{name: getattr(body, name) for name in others}, **values})
    except InvalidValue as error:
        raise in_clients_words(error, body) from None
