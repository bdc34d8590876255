"""One Triton over gRPC.

One gRPC stream for each generation and each control question: a decoupled model answers nothing else. A
generation that nobody waits for is ended by ``control`` cancel, and its stream read to the end. Must not know
HTTP, nor that there may be several Tritons.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import grpc
import tritonclient.grpc.aio as triton
from tritonclient.grpc import InferResult
from tritonclient.utils import InferenceServerException

from ernie_frontend.settings import Settings
from ernie_frontend.triton.output_streams import OutputStream
from ernie_frontend.triton.single_flight import SingleFlight
from ernie_frontend.triton.stream import TritonStream
from ernie_frontend.triton.tensors import generate_inputs, input_tensor, output_of, sent_tensors, text_of
from ernie_wire import tensors
from ernie_wire.codec import MessageError
from ernie_wire.errors import EngineCrashed, ErnieError, InternalError, ModelUnavailable, parse_error
from ernie_wire.messages import GenerateRequest
from ernie_wire.status import A, Cancelled, Control, Health, Status, read_answer

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

_MAX_MESSAGE_BYTES = 2**31 - 1
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),  # gRPC's own 120 s would outlast a restart of Triton
    ("grpc.enable_http_proxy", 0),
]
_UNREACHABLE = "Triton cannot be reached now; try again later"
# What Triton itself says of a model that is not loaded, or whose stub is dead.
_UNAVAILABLE_PHRASES = (
    "unknown model",
    "is not found",
    "is not ready",
    "is not healthy",
    "no available versions",
)
# What its Python backend says when /dev/shm is full.
_NO_SHARED_MEMORY_PHRASE = "shared memory"
_CANCEL_PAUSE_S = 0.02


class TritonUnreachable(ModelUnavailable):
    """Nothing answers at a Triton's address, or not in time."""


class ServiceStopping(ModelUnavailable):
    """This process ends, and the answer took longer than it could wait."""


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
        self._instances: dict[str, str] = {}  # by model: the start of the stub that answered last
        self._num_unreachable = 0  # calls that failed since it answered last
        self._tasks: set[asyncio.Task[Any]] = set()  # they outlive those who started them
        self._generations: set[TritonStream] = set()

    async def close(self) -> None:
        """Wait until the generations that nobody waits for are ended, then close the channel."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._client.close()

    @property
    def num_generations(self) -> int:
        """How many are under way."""
        return len(self._generations)

    def stop_generations(self) -> None:
        """End all that are under way with ``ServiceStopping``."""
        for stream in self._generations:
            stream.give_up(ServiceStopping("the service is stopping; send the request again"))

    async def generate(self, model: str, request: GenerateRequest) -> OutputStream:
        """Yield what a model answers; the last output has a finish reason.

        Closing the generator, or cancelling the task that waits for it, cancels the generation.

        Raises:
            ErnieError: what the backend answered, or an error of this module.
        """
        stream = TritonStream(self._client.stream_infer(_one(_inference(model, generate_inputs(request)))))
        self._generations.add(stream)
        heard = asyncio.Event()
        watch = asyncio.create_task(self._watch(model, request.request_id, stream, heard))
        is_answered = False
        try:
            async for result in self._results(stream, request.request_id):
                heard.set()
                output = output_of(request.request_id, result)
                is_answered = output.finish_reason is not None
                yield output
            if not is_answered:
                raise EngineCrashed("Triton ended the stream before the answer was complete; try again")
        except ErnieError as error:
            is_answered = not isinstance(error, ServiceStopping)
            raise
        finally:
            watch.cancel()
            self._generations.discard(stream)
            if not stream.is_over:
                self._start(self._end(model, request.request_id, stream, is_cancelled=not is_answered))

    async def describe(self, model: str) -> Status:
        """Return what a model says of itself; raises as ``health`` does."""
        return await self._control(model, Control("describe"), Status)

    async def health(self, model: str, request_id: str | None = None) -> Health:
        """Return how a model is, and whether a request is in flight there.

        Raises:
            ErnieError: what the backend answered; ``TritonUnreachable`` if nothing came in time.
        """
        return await self._control(model, Control("health", request_id), Health)

    async def cancel(self, model: str, request_id: str) -> bool:
        """Cancel a request; return whether it was in flight. Raises as ``health`` does."""
        return (await self._control(model, Control("cancel", request_id), Cancelled)).cancelled

    async def _control(self, model: str, question: Control, kind: type[A]) -> A:
        return await asyncio.shield(self._start(self._answer(model, question, kind)))

    async def _answer(self, model: str, question: Control, kind: type[A]) -> A:
        inputs = [input_tensor(tensors.CONTROL, question.to_text())]
        call = self._client.stream_infer(_one(_inference(model, inputs)), stream_timeout=self._deadline_s)
        stream = TritonStream(call)
        # A model that is not ours does not know what it is asked here, and that is no failure.
        about = "" if question.op == "describe" else f"control {question.op}"
        try:
            results = [result async for result in self._results(stream, about)]
        finally:
            await stream.end(self._deadline_s)
        answers = (text_of(sent_tensors(result), tensors.CONTROL_OUTPUT) for result in results)
        answer = next((answer for answer in answers if answer is not None), None)
        if answer is None:
            raise InternalError(f"the model {model} answered nothing to control {question.op}")
        try:
            read = read_answer(kind, answer)
        except MessageError as error:
            logger.warning("the model %s answered control %s with %s", model, question.op, error)
            raise InternalError(
                f"the model {model} is of another version; install the same ernie-triton everywhere"
            ) from error
        if isinstance(read, Health | Status) and read.instance:
            self._instances[model] = read.instance
        return read

    async def ready_models(self) -> list[str]:
        """Return the names of the models that this Triton has loaded.

        Raises:
            TritonUnreachable: nothing came in time.
        """
        try:
            index = await self._client.get_model_repository_index(client_timeout=self._deadline_s)
        except InferenceServerException as error:
            raise self._unreachable(error.message(), "the question for its models") from None
        self._note_answer()
        return sorted({model.name for model in index.models if model.state == "READY"})

    async def _results(self, stream: TritonStream, about: str) -> AsyncIterator[InferResult]:
        """Yield the results of a stream, with every way it can fail mapped to the error tree.

        Args:
            stream: of one request.
            about: names the request in the log; empty: its failure is none, and not logged.
        """
        try:
            async for result, error in stream:
                self._note_answer()
                if error is not None:
                    raise self._triton_error(error.message(), about)
                yield result
        except grpc.aio.AioRpcError as error:
            raise self._call_error(error, about) from None

    async def _watch(self, model: str, request_id: str, stream: TritonStream, heard: asyncio.Event) -> None:
        """Fail a quiet stream when nobody works on it any more: Triton lets it hang."""
        instance = self._instances.get(model)
        heard_at = time.monotonic()
        while True:
            heard.clear()
            await asyncio.sleep(self._quiet_check_s)
            if heard.is_set():
                heard_at = time.monotonic()
                continue
            try:
                await self._shared_health(model).get()
                current = self._instances.get(model)
                is_lost = (
                    current != instance and instance is not None and await self._is_lost(model, request_id)
                )
                instance, heard_at = current, time.monotonic()
            except TritonUnreachable as error:  # slow, or it hangs; one that is gone ends the call by itself
                if time.monotonic() - heard_at < self._silence_limit_s:
                    continue
                stream.fail(error)
                return
            except ErnieError as error:
                end = f"died ({error.message})"
                break
            if is_lost and not heard.is_set():
                end = "was loaded again"
                break
        if stream.has_begun:
            stream.fail(EngineCrashed(f"the model {model} {end} while it answered; try again"))
        else:  # it may have waited for a stub that was dead already
            stream.fail(ModelUnavailable(f"the model {model} {end} before it answered; try again"))

    async def _is_lost(self, model: str, request_id: str) -> bool:
        """Whether a new start of the stub does not know a request: then the start before took it along."""
        return (await self.health(model, request_id)).in_flight is False

    def _shared_health(self, model: str) -> SingleFlight[Health]:
        """Return the question that all quiet streams of a model share; there may be hundreds."""
        if model not in self._health:
            age_s = self._quiet_check_s / 2
            self._health[model] = SingleFlight(functools.partial(self.health, model), age_s, age_s)
        return self._health[model]

    def _triton_error(self, message: str, about: str) -> ErnieError:
        if (error := parse_error(message)) is not None:
            return error
        # Not of our making: names of shared memory, paths and addresses are for the log alone.
        self._log(message, about)
        if _NO_SHARED_MEMORY_PHRASE in message:
            return ModelUnavailable("Triton has no shared memory left for a request of this size now")
        if any(phrase in message for phrase in _UNAVAILABLE_PHRASES):
            return ModelUnavailable("Triton cannot serve the model now; try again later")
        return InternalError("Triton could not answer the request; the log has the cause with its id")

    def _call_error(self, error: grpc.aio.AioRpcError, about: str) -> ErnieError:
        details = error.details() or error.code().name
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return self._unreachable(details, about)
        return self._triton_error(details, about)

    def _unreachable(self, details: str, about: str) -> TritonUnreachable:
        """Return the error; the log has the first of an outage, and how many there were at its end."""
        cause = details.rpartition(": ")[2]  # before it gRPC names the address, again and again
        if about:
            self._log(cause, about, logging.DEBUG if self._num_unreachable else logging.WARNING)
            self._num_unreachable += 1
        return TritonUnreachable(_UNREACHABLE)

    def _note_answer(self) -> None:
        if self._num_unreachable:
            logger.warning("Triton at %s answers again; %d calls failed", self.url, self._num_unreachable)
            self._num_unreachable = 0

    def _log(self, message: str, about: str, level: int = logging.WARNING) -> None:
        if about:
            logger.log(level, "Triton at %s failed %s: %s", self.url, about, message)

    def _start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Start work that ends by itself, whoever waits for it, and that ``close`` waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it may have gone; asyncio would write a traceback

    async def _end(self, model: str, request_id: str, stream: TritonStream, *, is_cancelled: bool) -> None:
        """Have a stream that was left end; it is read to its end, for Triton's sake."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._cancel_deadline_s
        stream.leave()
        try:
            while is_cancelled and not stream.is_over and clock() < deadline:
                if await self.cancel(model, request_id):
                    break
                await asyncio.sleep(_CANCEL_PAUSE_S)  # the request has not reached the stub yet
        except ErnieError as error:
            logger.warning("the cancellation of %s was not delivered: %s", request_id, error.message)
        await stream.end(max(0.0, deadline - clock()))


async def _one(inference: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield inference


def _inference(model: str, inputs: list[triton.InferInput]) -> dict[str, Any]:
    return {"model_name": model, "inputs": inputs}
