"""The failures of calls to one Triton as errors of the tree, and their log lines."""

from __future__ import annotations

import logging

import grpc

from ernie_wire.errors import ErnieError, InternalError, ModelUnavailable, parse_error

logger = logging.getLogger(__name__)

_UNREACHABLE = "Triton cannot be reached now; try again later"
# Triton's messages about a model that is not loaded, or whose stub is dead.
_UNAVAILABLE_PHRASES = (
    "unknown model",
    "is not found",
    "is not ready",
    "is not healthy",
    "no available versions",
)
# Of its Python backend, when /dev/shm is full.
_NO_SHARED_MEMORY_PHRASE = "shared memory"


class TritonUnreachable(ModelUnavailable):
    """No Triton answers at the address, or not in time."""


class CallErrors:
    """Maps and logs the failures of calls to one Triton.

    In ``about``, each method takes what the log calls the failed call; if it is empty, the failure is expected,
    and not logged.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._num_unreachable = 0  # failed calls since Triton's last answer

    def of_triton(self, message: str, about: str) -> ErnieError:
        """Return the error in a message of Triton, which is the stub's if it has the form of our errors."""
        if (error := parse_error(message)) is not None:
            return error
        # Triton's own messages hold names of shared memory, paths and addresses, which are for the log alone.
        self._log(message, about)
        if _NO_SHARED_MEMORY_PHRASE in message:
            return ModelUnavailable("Triton has no shared memory left for a request of this size now")
        if any(phrase in message for phrase in _UNAVAILABLE_PHRASES):
            return ModelUnavailable("Triton cannot serve the model now; try again later")
        return InternalError("Triton could not answer the request; the log has the cause with its id")

    def of_call(self, error: grpc.aio.AioRpcError, about: str) -> ErnieError:
        """Return the error of a failed gRPC call."""
        details = error.details() or error.code().name
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return self.unreachable(details, about)
        return self.of_triton(details, about)

    def unreachable(self, details: str, about: str) -> TritonUnreachable:
        """Return the error of an outage, of which the log has the first call and the number of calls."""
        cause = details.rpartition(": ")[2]  # gRPC repeats the address before it
        if about:
            self._log(cause, about, logging.DEBUG if self._num_unreachable else logging.WARNING)
            self._num_unreachable += 1
        return TritonUnreachable(_UNREACHABLE)

    def note_answer(self) -> None:
        """Log the end of an outage."""
        if self._num_unreachable:
            logger.warning("Triton at %s answers again; %d calls failed", self._url, self._num_unreachable)
            self._num_unreachable = 0

    def _log(self, message: str, about: str, level: int = logging.WARNING) -> None:
        if about:
            logger.log(level, "Triton at %s failed %s: %s", self._url, about, message)
