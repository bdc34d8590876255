"""A Triton that is all script: the gRPC service as tritonclient sees it, without a model behind it.

Speaks the real protocol on a real loopback port. Answers ``control`` like the stub does, and everything else
by ``answer``, which a test may replace. Runs in the event loop of an ``EventLoopThread``, so that tests can
be plain functions.
"""

from __future__ import annotations

import asyncio
import json
import queue
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor

from ernie_wire.logprobs import parse_logprobs
from ernie_wire.marked_text import Mark
from ernie_wire.messages import Output, pack_outputs
from ernie_wire.status import Status, answer_text
from fakes.descriptions import description
from support.transcripts import transcript

_TURNS_TO_SETTLE = 10
"""Of an event loop, in which what has arrived at a socket reaches whoever waits for it."""
_FIELDS = {"text_output": "text", "output_ids": "token_ids"}
Result = TypeVar("Result")
Response = dict[str, Any] | str
"""Output tensors by name, or the text of a Triton error."""


class _AdjustableLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be put forward."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


class EventLoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = _AdjustableLoop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Result], timeout_s: float = 30) -> Result:
        """Run a coroutine in the loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    def pass_time(self, seconds: float) -> None:
        """Put the loop's clock forward, after whatever can be done now: what waits so long waits no more."""
        self.run(self._pass_time(seconds))

    async def _pass_time(self, seconds: float) -> None:
        for _ in range(_TURNS_TO_SETTLE):
            await asyncio.sleep(0)
        self.loop.ahead_s += seconds

    def stop(self) -> None:
        """Stop the loop and end the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@dataclass(frozen=True)
class Inference:
    """One request as it came: scalars as str or bool, token ids as a list."""

    model: str
    inputs: dict[str, Any]

    @property
    def sampling(self) -> dict[str, Any]:
        sampling: dict[str, Any] = json.loads(self.inputs.get("sampling_parameters", "{}"))
        return sampling

    @property
    def messages(self) -> dict[str, Any]:
        messages: dict[str, Any] = json.loads(self.inputs["messages"])
        return messages


PROMPT = ("User", ": ", "H", "i", "\n", "A", ":")
"""The tokens of every prompt, ids 1 to 7."""


def logprobs_of(texts: Sequence[str | bytes], first_id: int, num_top: int) -> list[dict[str, Any]]:
    """Return entries of the tensor ``logprobs``: token i has -(i + 1) / 8, and alternatives "~0", "~1", ..."""
    entries = []
    for index, text in enumerate(texts):
        token_bytes = list(text if isinstance(text, bytes) else text.encode())
        own = {"token_id": first_id + index, "logprob": -(index + 1) / 8, "bytes": token_bytes}
        others = [
            {"token_id": 900 + rank, "logprob": -float(rank + 2), "bytes": list(f"~{rank}".encode())}
            for rank in range(num_top)
        ]
        entries.append({**own, "rank": 1, "top": [own, *others][:num_top]})
    return entries


async def tell(
    inference: Inference,
    pieces: tuple[str, ...] = ("Bei", "jing", "."),
    reason: str = "stop",
    prompt_tag: str = "",
) -> AsyncIterator[Response]:
    """Answer with pieces of text, one token each (id 100, 101, ...); the prompt counts 7 tokens, 4 cached.

    A structural token is written «think»; if the prompt ends with that one, all up to «/think» are reasoning.
    """
    num_reasoning = pieces.index("«/think»") + 1 if prompt_tag == "<think>" else 0
    if inference.sampling.get("max_tokens") == 0:
        pieces, reason = (), "length"
    steps = [(piece,) for piece in pieces] if inference.inputs.get("stream") and pieces else [pieces]
    num_top, num_prompt_top = (inference.sampling.get(name) for name in ("logprobs", "prompt_logprobs"))
    logprobs = [] if num_top is None else logprobs_of([transcript(each).text for each in pieces], 100, num_top)
    done = 0
    for index, step in enumerate(steps):
        is_last, answer = index == len(steps) - 1, transcript("".join(step))
        response: dict[str, Any] = {
            "text_output": answer.text,
            "finish_reason": reason if is_last else "",
            "num_input_tokens": 7,
            "num_cached_tokens": 4,
            "num_output_tokens": len(step),
            "num_reasoning_tokens": len(step[: max(0, num_reasoning - done)]),
        }
        if answer.marks:
            response["marks"] = [list(mark) for mark in answer.marks]
        if inference.inputs.get("return_marks") and index == 0:
            response["prompt_tag"] = prompt_tag
        if inference.inputs.get("return_token_ids"):
            response["output_ids"] = list(range(100 + done, 100 + done + len(step)))
            if index == 0:
                response |= {"prompt_ids": [1, 2, 3, 4, 5, 6, 7], "prompt_text": "".join(PROMPT)}
            if index == 0 and inference.inputs.get("return_prompt_bytes"):
                response |= {"prompt_bytes": [text.encode() for text in PROMPT]}
        if num_top is not None:
            response["logprobs"] = json.dumps(logprobs[done : done + len(step)])
        if num_prompt_top is not None and index == 0:
            response["prompt_logprobs"] = json.dumps([None, *logprobs_of(PROMPT, 1, num_prompt_top)[1:]])
        done += len(step)
        yield response


async def hang_after_first(inference: Inference) -> AsyncIterator[Response]:
    """Answer one piece (a stream) or nothing (no stream), then nothing more until cancelled."""
    if inference.inputs.get("stream"):
        yield {"text_output": "Bei", "finish_reason": "", "num_input_tokens": 7, "num_output_tokens": 1}
    await asyncio.Event().wait()


def ready_model(**changes: Any) -> dict[str, Any]:
    """Return what ``describe`` of a ready model says."""
    told: dict[str, Any] = json.loads(answer_text(Status("ready", generation=1, engine=description(**changes))))
    return told


@dataclass
class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The scripted server.

    Attributes:
        answer: makes the responses to an inference.
        models: for each loaded model what ``describe`` answers; a str is an error instead.
        health: what ``health`` answers; a str is an error instead.
        inferences: what came in, controls excepted.
        cancel: what a ``cancel`` control does; returns what it answers. By default it ends the request.
        cancelled: request ids that a ``cancel`` control ended.
        finished: request ids whose gRPC stream was read to its end.
        aborted: request ids whose gRPC stream was cancelled.
        num_health_questions: ``health`` controls that came.
        is_silent: controls are not answered any more, as by a Triton that is stopped.
    """

    answer: Callable[[Inference], AsyncIterator[Response]] = tell
    models: dict[str, dict[str, Any] | str] = field(default_factory=lambda: {"ernie-tiny": ready_model()})
    health: dict[str, Any] | str = field(
        default_factory=lambda: {"state": "ready", "detail": "", "ready": True, "heartbeat_age_s": 0.1}
    )
    inferences: list[Inference] = field(default_factory=list)
    cancelled: queue.Queue[str] = field(default_factory=queue.Queue)
    finished: queue.Queue[str] = field(default_factory=queue.Queue)
    aborted: queue.Queue[str] = field(default_factory=queue.Queue)
    cancel: Callable[[str], bool] | None = None
    url: str = ""
    num_health_questions: int = 0
    is_silent: bool = False
    _in_flight: dict[str, tuple[asyncio.Event, queue.Queue[str]]] = field(default_factory=dict)

    def reset(self) -> None:
        """Forget what came and what a test has scripted."""
        fresh = FakeTriton()
        self.num_health_questions, self.is_silent = 0, False
        self.answer, self.models, self.health = fresh.answer, fresh.models, fresh.health
        self.inferences, self.cancelled, self.cancel = fresh.inferences, fresh.cancelled, fresh.cancel
        self.finished, self.aborted = fresh.finished, fresh.aborted

    async def start(self, port: int = 0) -> None:
        """Listen on a loopback port; ``url`` tells which."""
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])  # as Triton
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        bound = self._server.add_insecure_port(f"127.0.0.1:{port}")
        await self._server.start()
        self.url = f"127.0.0.1:{bound}"

    async def stop(self) -> None:
        """End at once, whatever is in flight."""
        await self._server.stop(None)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802  the protocol's name
        index = service_pb2.RepositoryIndexResponse()
        for name in self.models:
            index.models.add(name=name, version="1", state="READY")
        index.models.add(name="not-loaded", version="1", state="UNAVAILABLE")
        return index

    async def ModelStreamInfer(  # noqa: N802  the protocol's name
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Any]:
        async for request in requests:
            inference = _decode(request)
            if inference.model not in self.models:
                yield _encode(f"Request for unknown model: '{inference.model}' is not found")
            elif "control" in inference.inputs:
                if self.is_silent:
                    await asyncio.Event().wait()
                yield _encode(self._control(inference))
            else:
                self.inferences.append(inference)
                async for response in self._until_cancelled(inference):
                    yield _encode(_as_asked(inference, response))

    async def _until_cancelled(self, inference: Inference) -> AsyncIterator[Response]:
        request_id = inference.inputs.get("request_id", "")
        finished, aborted = self.finished, self.aborted  # of this test, even if the next one has begun
        is_cancelled = asyncio.Event()
        self._in_flight[request_id] = is_cancelled, self.cancelled
        end = asyncio.ensure_future(is_cancelled.wait())
        answer = aiter(self.answer(inference))
        following: asyncio.Future[Response | None] | None = None
        try:
            while not is_cancelled.is_set():
                following = asyncio.ensure_future(anext(answer, None))
                await asyncio.wait({following, end}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    yield f"cancelled: request {request_id} was cancelled"
                elif (response := following.result()) is not None:
                    yield response
                else:
                    break
        except asyncio.CancelledError:
            aborted.put(request_id)
            raise
        finally:
            end.cancel()
            if following is not None:
                following.cancel()
            self._in_flight.pop(request_id, None)
        finished.put(request_id)

    def _control(self, inference: Inference) -> Response:
        question = json.loads(inference.inputs["control"])
        if question["op"] == "cancel":
            is_cancelled = (self.cancel or self._end)(question["request_id"])
            return {"control_output": json.dumps({"cancelled": is_cancelled})}
        self.num_health_questions += question["op"] == "health"
        answer = self.models[inference.model] if question["op"] == "describe" else self.health
        return answer if isinstance(answer, str) else {"control_output": json.dumps(answer)}

    def _end(self, request_id: str) -> bool:
        if request_id not in self._in_flight:
            return False
        is_cancelled, cancelled = self._in_flight[request_id]
        is_cancelled.set()
        cancelled.put(request_id)
        return True


def _decode(request: Any) -> Inference:
    inputs: dict[str, Any] = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.name == "media":
            inputs[tensor.name] = deserialize_bytes_tensor(raw).tolist()
        elif tensor.datatype == "BYTES":
            (size,) = struct.unpack_from("<I", raw)
            inputs[tensor.name] = raw[4 : 4 + size].decode()
        elif tensor.datatype == "BOOL":
            inputs[tensor.name] = bool(raw[0])
        else:
            inputs[tensor.name] = np.frombuffer(raw, dtype=np.int32).tolist()
    return Inference(request.model_name, inputs)


def _as_asked(inference: Inference, response: Response) -> Response:
    """Return a response in the form that the inference asks for."""
    if isinstance(response, str) or not inference.inputs.get("return_outputs"):
        return response
    values = {_FIELDS.get(name, name): value for name, value in response.items()}
    for name in ("logprobs", "prompt_logprobs"):
        if name in values:
            values[name] = parse_logprobs(values[name])
    values["marks"] = tuple(Mark(*row) for row in values.get("marks", ()))
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    fields["finish_reason"] = fields.get("finish_reason") or None
    output = Output(inference.inputs.get("request_id", ""), **fields)
    return {"outputs": np.frombuffer(pack_outputs([output]), np.uint8)}


def _encode(response: Response) -> Any:
    if isinstance(response, str):
        return service_pb2.ModelStreamInferResponse(error_message=response)
    inner = service_pb2.ModelInferResponse()
    for name, value in response.items():
        if isinstance(value, str):
            data = value.encode()
            inner.outputs.add(name=name, datatype="BYTES", shape=[1])
            inner.raw_output_contents.append(struct.pack("<I", len(data)) + data)
            continue
        if isinstance(value, list) and value and isinstance(value[0], bytes):
            inner.outputs.add(name=name, datatype="BYTES", shape=[len(value)])
            inner.raw_output_contents.append(b"".join(struct.pack("<I", len(each)) + each for each in value))
            continue
        if isinstance(value, np.ndarray):
            inner.outputs.add(name=name, datatype="UINT8", shape=value.shape)
            inner.raw_output_contents.append(value.tobytes())
            continue
        is_count = isinstance(value, int)
        array = np.array([value] if is_count else value, dtype=np.uint32 if is_count else np.int32)
        inner.outputs.add(name=name, datatype="UINT32" if is_count else "INT32", shape=array.shape)
        inner.raw_output_contents.append(array.tobytes())
    return service_pb2.ModelStreamInferResponse(infer_response=inner)
