"""A completions request as one ``GenerateRequest`` for each prompt."""

from __future__ import annotations

from collections.abc import Sequence

from ernie_frontend.schema.completions import CompletionRequest
from ernie_frontend.schema.unsupported import UNSUPPORTED_IN_COMPLETIONS, refuse_unsupported
from ernie_frontend.translate.sampling import sampling_parameters
from ernie_wire.errors import InvalidValue
from ernie_wire.messages import GenerateRequest

_INT32_LIMIT = 2**31


def completion_to_wire(
    body: CompletionRequest, request_id: str, vocab_size: int | None, max_prompts: int
) -> list[GenerateRequest]:
    """Return the requests for the engine, in the order of the prompts.

    Args:
        body: the checked request.
        request_id: each prompt's id is this and the prompt's index.
        vocab_size: token ids must be below it; None if the model does not tell now.
        max_prompts: most prompts that are accepted.

    Raises:
        InvalidValue: a value outside its limits, or something that is not served yet.
    """
    refuse_unsupported(body.model_extra, UNSUPPORTED_IN_COMPLETIONS)
    prompts = body.prompts()
    if len(prompts) > max_prompts:
        raise InvalidValue(f"prompt holds {len(prompts)} prompts; at most {max_prompts} are accepted", "prompt")
    sampling = sampling_parameters(body, body.max_tokens)
    requests = []
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            _check_token_ids(prompt, vocab_size or _INT32_LIMIT)
        requests.append(
            GenerateRequest(
                request_id=f"{request_id}-{index}",
                text_input=prompt if isinstance(prompt, str) else None,
                input_ids=None if isinstance(prompt, str) else prompt,
                stream=bool(body.stream),
                sampling=sampling,
                return_prompt=bool(body.return_token_ids),
            )
        )
    return requests


def _check_token_ids(token_ids: Sequence[int], limit: int) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < limit:
            raise InvalidValue(
                f"prompt holds the token id {token_id}; ids must be in [0, {limit - 1}]", "prompt"
            )
