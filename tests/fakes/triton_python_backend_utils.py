"""A stand-in for the module that Triton provides inside its Python stub: what ernie_stub uses of it.

It imitates what was seen of Triton 2.51: a response sender refuses anything after the final flag.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonModelException(Exception):
    pass


class TritonError:
    INTERNAL = "INTERNAL"
    NOT_FOUND = "NOT_FOUND"
    INVALID_ARG = "INVALID_ARG"
    UNAVAILABLE = "UNAVAILABLE"
    CANCELLED = "CANCELLED"

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        self._message = message
        self._code = code

    def message(self) -> str:
        return self._message

    def code(self) -> str:
        return self._code


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self._name = name
        self._array = array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self._tensors = output_tensors or []
        self._error = error

    def error(self) -> TritonError | None:
        return self._error

    def values(self) -> dict[str, Any]:
        """The outputs as Python objects: text for one value of BYTES, else a list."""
        return {
            tensor.name(): tensor.as_numpy()[0].decode()
            if tensor.as_numpy().dtype == np.object_ and tensor.as_numpy().size == 1
            else tensor.as_numpy().tolist()
            for tensor in self._tensors
        }


class ResponseSender:
    """Collects responses; ``gate`` may be closed to block a send, as a busy server does."""

    def __init__(self) -> None:
        self.responses: list[InferenceResponse] = []
        self.finished = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.sending = threading.Event()
        self.cancelled = False
        self.sending_fails = False
        self.on_send: Callable[[], None] = lambda: None

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        self.sending.set()
        self.on_send()
        assert self.gate.wait(60)
        if self.sending_fails:
            raise TritonModelException("no shared memory left")
        if self.finished.is_set():
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        if response is not None:
            self.responses.append(response)
        if flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL:
            self.finished.set()

    def is_cancelled(self) -> bool:
        assert not self.finished.is_set(), "asked after the final flag"
        return self.cancelled

    def texts(self) -> list[str]:
        return [response.values()["text_output"] for response in self.responses]

    def error_line(self) -> str:
        """The error that ended the request, once it has ended."""
        assert self.finished.wait(60)
        error = self.responses[-1].error()
        assert error is not None
        return error.message()


class InferenceRequest:
    def __init__(self, inputs: dict[str, NDArray[Any]], parameters: str = "") -> None:
        self._inputs = [Tensor(name, array) for name, array in inputs.items()]
        self._parameters = parameters
        self.sender = ResponseSender()

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def parameters(self) -> str:
        return self._parameters

    def get_response_sender(self) -> ResponseSender:
        return self.sender
