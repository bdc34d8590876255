"""The errors of ernie-triton, one tree for all processes.

    ErnieError
    ├── InvalidRequest               400  the request itself is wrong
    │   ├── InvalidValue                  a field has a value outside its limits
    │   ├── MissingParameter              a required field is missing
    │   ├── ContextLengthExceeded         the prompt does not fit the context
    │   └── ChatTemplateFailed            the model's chat template cannot render the messages
    ├── ModelNotFound                404  no such model is served
    ├── QueueFull                    429  the server accepts no more requests for the moment
    ├── RequestTimeout               408  a deadline passed
    ├── RequestCancelled             499  the client disconnected or cancelled
    ├── ModelUnavailable             503  the model cannot answer now: unconfigured, starting, restarting
    └── InternalError                500  an unexpected failure in the server
        └── EngineCrashed                 the engine process ended while it worked on the request

An error crosses a process boundary as one line of text, ``code[param]: message``, because a Triton error
is a line of text: a plain gRPC client can read it, and ``parse_error`` returns the same object. A number that
belongs to an error goes before the colon: ``queue_full(retry_after_s=7): 512 requests are waiting``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

MAX_MESSAGE_CHARACTERS = 2000
MAX_PARAM_CHARACTERS = 100
_LINE = re.compile(
    r"^(?P<code>[a-z_]+)(?:\[(?P<param>.*?)\])?(?:\((?P<number>[a-z_]+)=(?P<value>\d{1,9})\))?"
    r": (?P<message>.*)$",
    re.DOTALL,
)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


class ErnieError(Exception):
    """Base of all errors that may reach a user.

    Attributes:
        message: what is wrong, with the value and the limit, and how to fix it.
        param: the request field at fault, or None.
        code: stable name of the error, the same in HTTP, gRPC, logs and docs.
        status: HTTP status.
        openai_type: the ``type`` of the OpenAI error object.
        triton_code: the name of the ``TritonError`` code.
        number: name of the attribute, an integer or None, that is part of the line; empty if there is none.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    openai_type: ClassVar[str] = "internal_error"
    triton_code: ClassVar[str] = "INTERNAL"
    number: ClassVar[str] = ""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def to_line(self) -> str:
        """Return the error as a line for ``parse_error``: lone surrogates are escaped, long texts are cut."""
        param = "" if self.param is None else f"[{_cut(self.param, MAX_PARAM_CHARACTERS)}]"
        value = getattr(self, self.number, None)
        number = "" if value is None else f"({self.number}={value})"
        line = f"{self.code}{param}{number}: {_cut(self.message, MAX_MESSAGE_CHARACTERS)}"
        return line.encode(errors="backslashreplace").decode()


class InvalidRequest(ErnieError):
    """The request is wrong; sending it again unchanged fails again."""

    code = "invalid_request"
    status = 400
    openai_type = "invalid_request_error"
    triton_code = "INVALID_ARG"


class InvalidValue(InvalidRequest):
    """A field has a value outside its limits."""

    code = "invalid_value"


class MissingParameter(InvalidRequest):
    """A required field is missing."""

    code = "missing_required_parameter"


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or the prompt and the requested answer, does not fit the context."""

    code = "context_length_exceeded"

    @classmethod
    def of(
        cls,
        limit: int,
        num_prompt_tokens: int,
        num_answer_tokens: int,
        param: str | None = None,
        *,
        is_estimate: bool = False,
        note: str = "",
    ) -> ContextLengthExceeded:
        """Return the error in OpenAI's words, from which clients recognize it and read the numbers.

        The message contains the code, too: LangChain looks only at the text of the official client's exception,
        which is the message.

        Args:
            limit: maximum number of tokens of prompt and answer.
            num_prompt_tokens: tokens of the prompt; a lower bound if ``is_estimate``.
            num_answer_tokens: tokens that the answer needs.
            param: the request field at fault.
            is_estimate: the prompt was not tokenized.
            note: a further sentence.
        """
        place, more = "messages" if param == "messages" else "prompt", " or more" if is_estimate else ""
        message = (
            f"This model's maximum context length is {limit} tokens. "
            f"However, you requested {num_prompt_tokens + num_answer_tokens} tokens{more} "
            f"({num_prompt_tokens}{more} in the {place}, {num_answer_tokens} in the completion). "
            f"Please reduce the length of the {place} or completion ({cls.code}). {note}"
        )
        return cls(message.rstrip(), param)


class ChatTemplateFailed(InvalidRequest):
    """The model's chat template failed: it has a bug, or needs something that the request leaves out."""

    code = "chat_template_failed"


class ModelNotFound(ErnieError):
    """No such model is served."""

    code = "model_not_support"  # FastDeploy's spelling, which its clients compare
    status = 404
    openai_type = "invalid_request_error"
    triton_code = "NOT_FOUND"


class QueueFull(ErnieError):
    """The server accepts no more requests for the moment; try again later.

    Attributes:
        retry_after_s: seconds to wait before a retry.
    """

    code = "queue_full"
    status = 429
    openai_type = "server_error"
    triton_code = "UNAVAILABLE"
    number = "retry_after_s"

    def __init__(self, message: str, param: str | None = None, *, retry_after_s: int = 1) -> None:
        super().__init__(message, param)
        self.retry_after_s = retry_after_s


class RequestTimeout(ErnieError):
    """A deadline passed before the answer was complete."""

    code = "timeout"
    status = 408
    openai_type = "timeout_error"
    triton_code = "UNAVAILABLE"


class RequestCancelled(ErnieError):
    """The client disconnected or cancelled the request."""

    code = "cancelled"
    status = 499
    openai_type = "invalid_request_error"
    triton_code = "CANCELLED"


class ModelUnavailable(ErnieError):
    """The model cannot answer now: it has no weights, or its engine is starting or restarting."""

    code = "model_unavailable"
    status = 503
    openai_type = "server_error"
    triton_code = "UNAVAILABLE"


class InternalError(ErnieError):
    """An unexpected failure in the server.

    Attributes:
        exit_signal: the signal that killed the failed process; or None.
    """

    number = "exit_signal"

    def __init__(self, message: str, param: str | None = None, *, exit_signal: int | None = None) -> None:
        super().__init__(message, param)
        self.exit_signal = exit_signal


class EngineCrashed(InternalError):
    """The engine process ended while it worked on the request; the answer is lost, a retry is safe."""

    code = "engine_crashed"


def _leaves(error: type[ErnieError]) -> Iterator[type[ErnieError]]:
    for child in error.__subclasses__():
        yield child
        yield from _leaves(child)


_BY_CODE = {leaf.code: leaf for leaf in _leaves(ErnieError)}  # imported before any subclass elsewhere


def parse_error(line: str) -> ErnieError | None:
    """Return the error that ``ErnieError.to_line`` wrote; None for any other text."""
    match = _LINE.match(line)
    leaf = _BY_CODE.get(match["code"]) if match else None
    if match is None or leaf is None:
        return None
    error = leaf(match["message"], match["param"])
    if match["number"] is not None and match["number"] == leaf.number:
        setattr(error, leaf.number, int(match["value"]))
    return error
