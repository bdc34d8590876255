"""Parses and checks the body of a generation request."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from ernie_frontend.http.offload import MAX_VALUES, Excess, find_excess
from ernie_frontend.http_errors import BodyTooLarge, from_validation
from ernie_frontend.middleware.request_log import record_of
from ernie_frontend.routes.services import Services
from ernie_frontend.schema.common import GenerationFields
from ernie_wire.errors import ContextLengthExceeded, ErnieError, RequestCancelled
from ernie_wire.status import Description

Body = TypeVar("Body", bound=BaseModel)
_TOKEN_ID_FIELDS = (b"prompt", b"prompt_token_ids", b"completion_token_ids", b"messages")


class _TooManyValues(Exception):
    def __init__(self, excess: Excess) -> None:
        super().__init__()
        self.excess = excess


async def read_body(kind: type[Body], request: Request) -> tuple[Body, int]:
    """Return the checked body of a request, whatever its content type, and its size in bytes.

    Raises:
        ErnieError: the body is not JSON, not an object, or a field is missing or of a wrong type; it has more
            values than any request needs; or the client disconnected.
    """
    services = Services.of(request)
    try:
        return await services.body_reader.read(request.stream(), partial(_parse, kind))
    except ClientDisconnect:
        record_of(request.scope).is_disconnected = True
        raise RequestCancelled("the client closed the connection before its request was complete") from None
    except _TooManyValues as error:
        raise _refusal(error.excess, await services.models.longest_context()) from None
    except ValidationError as error:
        raise from_validation(error) from None


def _parse(kind: type[Body], content: bytes) -> Body:
    excess = find_excess(content)
    if excess is not None:
        raise _TooManyValues(excess)
    return kind.model_validate_json(content)


def _refusal(excess: Excess, context: int | None) -> ErnieError:
    """Return the error of a body with too many values: the context's if a prompt is too long for any model."""
    if context is not None and excess.name in _TOKEN_ID_FIELDS and excess.num_in_list >= context:
        return ContextLengthExceeded.of(context, excess.num_in_list, 1, "prompt")
    return BodyTooLarge(f"the request body has more than {MAX_VALUES} values; send several requests")


def check_context(body: GenerationFields, engine: Description) -> None:
    """Refuse a prompt that cannot fit before it is translated, by the engine's own rules.

    Raises:
        ContextLengthExceeded: the prompt leaves no room for an answer.
    """
    if body.truncate_prompt_tokens is not None:
        return
    context, longest = engine.max_model_len, engine.longest_token_bytes
    least = max(1, body.min_tokens or 0)
    if body.num_prompt_ids >= context:
        raise ContextLengthExceeded.of(context, body.num_prompt_ids, least, "prompt")
    if longest and body.num_prompt_bytes > longest * (context - 1):
        num_tokens = -(-body.num_prompt_bytes // longest)
        raise ContextLengthExceeded.of(context, num_tokens, least, "prompt", is_estimate=True)
