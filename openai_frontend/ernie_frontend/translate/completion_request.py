"""A completions request as ``GenerateRequest``s, one for each answer to each prompt."""

from __future__ import annotations

from ernie_frontend.schema.completions import CompletionRequest
from ernie_frontend.schema.unsupported import UNSUPPORTED_IN_COMPLETIONS, refuse_unsupported
from ernie_frontend.translate.generate_request import RequestContext, generate_requests, sampling_parameters
from ernie_wire.checks import check_token_ids
from ernie_wire.errors import InvalidValue, MissingParameter
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters


def completion_to_wire(body: CompletionRequest, context: RequestContext) -> list[GenerateRequest]:
    """Return the requests for the engine.

    Raises:
        InvalidRequest: a value outside its limits, an unsupported field, or no prompt.
    """
    refuse_unsupported(body, UNSUPPORTED_IN_COMPLETIONS)
    prompts = _checked_prompts(body, context.highest_token_id)
    if len(prompts) * body.num_candidates > context.max_answers:
        raise InvalidValue(
            f"prompt holds {len(prompts)} prompts with {body.num_candidates} answers each; at most "
            f"{context.max_answers} answers are made to one request",
            "prompt" if len(prompts) > 1 else "best_of" if body.best_of else "n",
        )
    requests = [
        GenerateRequest(context.request_id, prompt)
        if isinstance(prompt, str)
        else GenerateRequest(context.request_id, input_ids=prompt)
        for prompt in prompts
    ]
    return generate_requests(body, context, requests, _sampling(body))


def _checked_prompts(body: CompletionRequest, highest_token_id: int) -> list[str | tuple[int, ...]]:
    prompts = body.prompts()
    if not prompts:
        raise MissingParameter("prompt is missing", "prompt")
    name = "prompt" if body.prompt_token_ids is None else "prompt_token_ids"
    for prompt in prompts:
        if not isinstance(prompt, str):
            check_token_ids(name, prompt, highest_token_id)
    if not body.completion_token_ids:
        return prompts
    check_token_ids("completion_token_ids", body.completion_token_ids, highest_token_id)
    if len(prompts) > 1 or isinstance(prompts[0], str):
        raise InvalidValue(
            "completion_token_ids need one prompt of token ids; send prompt_token_ids "
            "(return_token_ids gives them)",
            "completion_token_ids",
        )
    return [(*prompts[0], *body.completion_token_ids)]


def _sampling(body: CompletionRequest) -> SamplingParameters:
    needs_logprobs = body.num_candidates > (body.n or 1)
    logprobs = 0 if needs_logprobs and body.logprobs is None else body.logprobs
    repeated = body.logprobs if body.echo else None
    requested = [number for number in (body.prompt_logprobs, repeated) if number is not None]
    most = -1 if -1 in requested else max(requested, default=None)
    return sampling_parameters(body.model_copy(update={"prompt_logprobs": most}), body.max_tokens, logprobs)
