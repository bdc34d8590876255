"""The client of one Triton, over gRPC.

Each generation and each control request is one gRPC stream: a decoupled model supports nothing else. A
generation without a consumer is ended by ``control`` cancel, and its stream is read to the end.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import grpc
import tritonclient.grpc.aio as triton
from tritonclient.grpc import InferResult
from tritonclient.utils import InferenceServerException

from ernie_frontend.settings import Settings
from ernie_frontend.triton.call_errors import CallErrors, TritonUnreachable
from ernie_frontend.triton.local_outputs import LocalOutputs, LocalStubs
from ernie_frontend.triton.output_streams import OutputStream
from ernie_frontend.triton.single_flight import SingleFlight
from ernie_frontend.triton.stream import TritonStream
from ernie_frontend.triton.tensors import (
    generate_inputs,
    input_tensor,
    other_version,
    output_of,
    response_tensors,
    text_of,
)
from ernie_wire import tensors
from ernie_wire.codec import MessageError
from ernie_wire.errors import EngineCrashed, ErnieError, InternalError, ModelUnavailable
from ernie_wire.messages import GenerateRequest, Output
from ernie_wire.status import A, Cancelled, Control, Health, Status, read_answer

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

_MAX_MESSAGE_BYTES = 2**31 - 1
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),  # gRPC's default of 120 s is longer than a restart of Triton
    ("grpc.enable_http_proxy", 0),
]
_CANCEL_PAUSE_S = 0.02
_LOST_S = 1.0
"""A stub that ends closes its calls, too, and these say why; so they get this long."""


class ServiceStopping(ModelUnavailable):
    """This process stops, and the answer took longer than it could wait."""


class TritonClient:
    """The frontend's view of one Triton. Make and close it inside the event loop that uses it."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = url
        self._deadline_s = settings.control_deadline_s
        self._cancel_deadline_s = settings.cancel_deadline_s
        self._quiet_check_s = settings.quiet_check_s
        self._silence_limit_s = settings.silence_limit_s
        self._client = triton.InferenceServerClient(url, channel_args=_CHANNEL_OPTIONS)
        self._health: dict[str, SingleFlight[Health]] = {}
        self._instances: dict[str, str] = {}  # by model: the instance of the stub that answered last
        self._errors = CallErrors(url)
        self._tasks: set[asyncio.Task[Any]] = set()  # which outlive their callers
        self._generations: set[TritonStream] = set()
        self._local_stubs = LocalStubs(_fail_lost)

    async def close(self) -> None:
        """Wait for the end of cancelled generations, then close the channels."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._local_stubs.close()
        await self._client.close()

    @property
    def num_generations(self) -> int:
        """Number of generations under way."""
        return len(self._generations)

    def stop_generations(self) -> None:
        """End all generations with ``ServiceStopping``."""
        for stream in self._generations:
            stream.give_up(ServiceStopping("the service is stopping; send the request again"))

    async def generate(self, model: str, request: GenerateRequest) -> OutputStream:
        """Yield the outputs of a generation; the last one has a finish reason.

        Closing the generator, or cancelling the task that waits for it, cancels the generation.

        Raises:
            ErnieError: the backend's error, or the failure of the call.
        """
        local = await self._local_stubs.connection(model)
        deliver_to = "" if local is None else local.connection_id
        inputs = generate_inputs(replace(request, return_outputs=True, deliver_to=deliver_to))
        call = self._client.stream_infer(_one(_inference(model, inputs)))
        stream = TritonStream(call, is_delivered=bool(deliver_to))
        if local is not None:
            local.streams[request.request_id] = stream
        request = request.without_prompt()
        del inputs
        self._generations.add(stream)
        has_output = asyncio.Event()
        watch = asyncio.create_task(self._watch(model, request.request_id, stream, has_output))
        is_answered = False
        try:
            async for output in self._outputs(stream, request.request_id):
                has_output.set()
                is_answered = output.finish_reason is not None
                yield output
                if is_answered:
                    return
            raise EngineCrashed("Triton ended the stream before the answer was complete; try again")
        except ErnieError as error:
            is_answered = not isinstance(error, ServiceStopping)
            raise
        finally:
            watch.cancel()
            self._generations.discard(stream)
            if local is not None:
                local.streams.pop(request.request_id, None)
            if not stream.is_over:
                self._start(self._end(model, request.request_id, stream, is_cancelled=not is_answered))

    async def describe(self, model: str) -> Status:
        """Return the description of a model; raises as ``health`` does."""
        return await self._control(model, Control("describe"), Status)

    async def health(self, model: str, request_id: str | None = None) -> Health:
        """Return the health of a model, and whether a request is in flight there.

        Raises:
            ErnieError: the backend's error; ``TritonUnreachable`` if no answer came in time.
        """
        return await self._control(model, Control("health", request_id), Health)

    async def cancel(self, model: str, request_id: str) -> bool:
        """Cancel a request; return whether it was in flight. Raises as ``health`` does."""
        return (await self._control(model, Control("cancel", request_id), Cancelled)).cancelled

    async def _control(self, model: str, control: Control, kind: type[A]) -> A:
        return await asyncio.shield(self._start(self._answer(model, control, kind)))

    async def _answer(self, model: str, control: Control, kind: type[A]) -> A:
        inputs = [input_tensor(tensors.CONTROL, control.to_text())]
        call = self._client.stream_infer(_one(_inference(model, inputs)), stream_timeout=self._deadline_s)
        stream = TritonStream(call)
        # A foreign model does not support describe, which is not a failure.
        about = "" if control.op == "describe" else f"control {control.op}"
        try:
            results = [each async for each in self._results(stream, about) if isinstance(each, InferResult)]
        finally:
            await stream.end(self._deadline_s)
        answers = (text_of(response_tensors(result), tensors.CONTROL_OUTPUT) for result in results)
        answer = next((answer for answer in answers if answer is not None), None)
        if answer is None:
            raise InternalError(f"the model {model} answered nothing to control {control.op}")
        try:
            read = read_answer(kind, answer)
        except MessageError as error:
            logger.warning("the model %s answered control %s with %s", model, control.op, error)
            raise other_version(model) from error
        if isinstance(read, Health | Status) and read.instance:
            self._instances[model] = read.instance
        if isinstance(read, Status):
            self._local_stubs.note_address(model, read.outputs_socket)
        return read

    async def ready_models(self) -> list[str]:
        """Return the names of the models that this Triton has loaded.

        Raises:
            TritonUnreachable: no answer came in time.
        """
        try:
            index = await self._client.get_model_repository_index(client_timeout=self._deadline_s)
        except InferenceServerException as error:
            raise self._errors.unreachable(error.message(), "the repository index") from None
        self._errors.note_answer()
        return sorted({model.name for model in index.models if model.state == "READY"})

    async def _outputs(self, stream: TritonStream, about: str) -> AsyncIterator[Output]:
        """Yield the outputs of a generation; raises and ``about`` as in ``_results``."""
        async for result in self._results(stream, about):
            output = result if isinstance(result, Output) else output_of(result)
            if output.error is None:
                yield output
                continue
            if output.text:  # joined with the error: the text goes first
                yield replace(output, error=None)
            raise self._errors.of_triton(output.error, about)

    async def _results(self, stream: TritonStream, about: str) -> AsyncIterator[InferResult | Output]:
        """Yield the results of a stream and what is delivered to it; raise its failure as ErnieError.

        Args:
            stream: to iterate over.
            about: as in ``CallErrors``.
        """
        try:
            async for response in stream:
                if isinstance(response, Output):
                    yield response
                    continue
                result, error = response
                self._errors.note_answer()
                if error is not None:
                    raise self._errors.of_triton(error.message(), about)
                yield result
        except grpc.aio.AioRpcError as error:
            raise self._errors.of_call(error, about) from None

    async def _watch(
        self, model: str, request_id: str, stream: TritonStream, has_output: asyncio.Event
    ) -> None:
        """Fail a silent stream whose request was lost: Triton would let it hang.

        That is so if the model's health cannot be had, or if its stub is a new instance which does not know the
        request.
        """
        instance = self._instances.get(model)
        alive_at = time.monotonic()
        while True:
            has_output.clear()
            await asyncio.sleep(self._quiet_check_s)
            if has_output.is_set():
                alive_at = time.monotonic()
                continue
            try:
                await self._shared_health(model).get()
                current = self._instances.get(model)
                is_lost = (
                    current != instance and instance is not None and await self._is_lost(model, request_id)
                )
                instance, alive_at = current, time.monotonic()
            except TritonUnreachable as error:  # slow or hanging; a dead one ends the call
                if time.monotonic() - alive_at < self._silence_limit_s:
                    continue
                stream.fail(error)
                return
            except ErnieError as error:
                end = f"died ({error.message})"
                break
            if is_lost and not has_output.is_set():
                end = "was loaded again"
                break
        stream.fail(_lost(model, end, stream))

    async def _is_lost(self, model: str, request_id: str) -> bool:
        """Return whether a new instance of the stub does not know a request, which the old one had."""
        return (await self.health(model, request_id)).in_flight is False

    def _shared_health(self, model: str) -> SingleFlight[Health]:
        """Return the health request that all silent streams of a model share; there may be hundreds."""
        if model not in self._health:
            age_s = self._quiet_check_s / 2
            self._health[model] = SingleFlight(functools.partial(self.health, model), age_s, age_s)
        return self._health[model]

    def _start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Start work that outlives its caller, and that ``close`` waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio logs a traceback if the caller is gone

    async def _end(self, model: str, request_id: str, stream: TritonStream, *, is_cancelled: bool) -> None:
        """End a stream without a consumer: cancel its request if ``is_cancelled``, and read it to its end."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._cancel_deadline_s
        stream.leave()
        try:
            while is_cancelled and not stream.is_over and clock() < deadline:
                if await self.cancel(model, request_id):
                    break
                await asyncio.sleep(_CANCEL_PAUSE_S)  # the request has not reached the stub yet: repeat
        except ErnieError as error:
            logger.warning("the cancellation of %s was not delivered: %s", request_id, error.message)
        await stream.end(max(0.0, deadline - clock()))


def _lost(model: str, end: str, stream: TritonStream) -> ErnieError:
    """Return the error of a request that its stub has lost."""
    if stream.has_begun:
        return EngineCrashed(f"the model {model} {end} while it answered; try again")
    # The stub may have been dead before the request came.
    return ModelUnavailable(f"the model {model} {end} before it answered; try again")


def _fail_lost(model: str, local: LocalOutputs) -> None:
    """Fail the generations that a stub on this machine leaves behind, if their calls do not end."""

    def fail() -> None:
        for stream in local.streams.values():
            stream.fail(_lost(model, "died", stream))

    asyncio.get_running_loop().call_later(_LOST_S, fail)


async def _one(inference: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield inference


def _inference(model: str, inputs: list[triton.InferInput]) -> dict[str, Any]:
    return {"model_name": model, "inputs": inputs}
