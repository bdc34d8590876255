"""A completions request as ``GenerateRequest``s: for each prompt one for each answer that is made to it."""

from __future__ import annotations

from ernie_frontend.schema.completions import CompletionRequest
from ernie_frontend.schema.unsupported import UNSUPPORTED_IN_COMPLETIONS, refuse_unsupported
from ernie_frontend.translate.sampling import check_token_ids, sampling_parameters, with_seed_offset
from ernie_wire.errors import InvalidValue, MissingParameter
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters

Prompt = str | tuple[int, ...]


def completion_to_wire(
    body: CompletionRequest, request_id: str, vocab_size: int | None, max_answers: int, client_salt: str = ""
) -> list[GenerateRequest]:
    """Return the requests for the engine: all answers to the first prompt, then those to the second ...

    Args:
        body: the checked request.
        request_id: each answer's id is this and its number.
        vocab_size: token ids must be below it; None if the model does not tell now.
        max_answers: most answers that are made to one request.
        client_salt: what keeps the clients' parts of the prefix cache apart.

    Raises:
        InvalidRequest: a value outside its limits, something that is not served, or no prompt.
    """
    refuse_unsupported(body.model_extra, UNSUPPORTED_IN_COMPLETIONS)
    prompts = _checked_prompts(body, vocab_size)
    if len(prompts) * body.num_candidates > max_answers:
        raise InvalidValue(
            f"prompt holds {len(prompts)} prompts with {body.num_candidates} answers each; at most "
            f"{max_answers} answers are made to one request",
            "prompt" if len(prompts) > 1 else "best_of" if body.best_of else "n",
        )
    sampling = _sampling(body)
    return [
        GenerateRequest(
            request_id=f"{request_id}-{index}",
            text_input=prompt if isinstance(prompt, str) else None,
            input_ids=None if isinstance(prompt, str) else prompt,
            stream=bool(body.stream),
            sampling=with_seed_offset(sampling, index % body.num_candidates),
            return_token_ids=bool(body.return_token_ids or body.echo),
            priority=body.priority or 0,
            cache_salt=client_salt + (body.cache_salt or ""),
        )
        for index, prompt in enumerate(prompt for prompt in prompts for _ in range(body.num_candidates))
    ]


def _checked_prompts(body: CompletionRequest, vocab_size: int | None) -> list[Prompt]:
    prompts = body.prompts()
    if not prompts:
        raise MissingParameter("prompt is missing", "prompt")
    name = "prompt" if body.prompt_token_ids is None else "prompt_token_ids"
    for prompt in prompts:
        if not isinstance(prompt, str):
            check_token_ids(name, prompt, vocab_size)
    if not body.completion_token_ids:
        return prompts
    check_token_ids("completion_token_ids", body.completion_token_ids, vocab_size)
    if len(prompts) > 1 or isinstance(prompts[0], str):
        raise InvalidValue(
            "completion_token_ids go on from one prompt of token ids; send prompt_token_ids "
            "(return_token_ids gives them)",
            "completion_token_ids",
        )
    return [(*prompts[0], *body.completion_token_ids)]


def _sampling(body: CompletionRequest) -> SamplingParameters:
    if body.max_tokens == 0 and not body.echo:
        raise InvalidValue("max_tokens is 0; it must be at least 1, but for echo", "max_tokens")
    is_judged = body.num_candidates > (body.n or 1)
    logprobs = 0 if is_judged and body.logprobs is None else body.logprobs
    # The engine makes at least one token; one that is not wanted is left out of the answer.
    max_tokens = 1 if body.max_tokens == 0 else body.max_tokens
    repeated = body.logprobs if body.echo else None
    wanted = [number for number in (body.prompt_logprobs, repeated) if number is not None]
    most = -1 if -1 in wanted else max(wanted, default=None)
    asked = body.model_copy(update={"prompt_logprobs": most})
    return sampling_parameters(asked, max_tokens, logprobs)
