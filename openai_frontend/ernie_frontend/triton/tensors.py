"""Requests and responses as tritonclient's tensors, by the specifications in ``ernie_wire.tensors``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.grpc import InferResult

from ernie_wire import tensors
from ernie_wire.logprobs import parse_logprobs
from ernie_wire.marked_text import Mark
from ernie_wire.messages import GenerateRequest, Output

ResponseTensors = Mapping[str, NDArray[Any]]
_DATATYPES = {"TYPE_STRING": "BYTES", "TYPE_BOOL": "BOOL", "TYPE_INT32": "INT32"}
_DEFAULTS = {each.name: each.default for each in fields(GenerateRequest)}


def generate_inputs(request: GenerateRequest) -> list[triton.InferInput]:
    """Return the tensors of a request: one per field that differs from its default, of the same name."""
    values = [(spec, getattr(request, spec.name)) for spec in tensors.FIELDS]
    inputs = [input_tensor(spec, value) for spec, value in values if value != _DEFAULTS[spec.name]]
    return [*inputs, input_tensor(tensors.SAMPLING_PARAMETERS, json.dumps(request.sampling.to_json()))]


def input_tensor(spec: tensors.TensorSpec, value: object) -> triton.InferInput:
    """Return a tensor of one value or a tuple of values: texts, bytes, booleans or integers."""
    values = value if isinstance(value, tuple) else (value,)
    if spec.datatype == "TYPE_STRING":
        array = np.array(
            [each.encode() if isinstance(each, str) else each for each in values], dtype=np.object_
        )
    else:
        array = np.array(values, dtype=np.bool_ if spec.datatype == "TYPE_BOOL" else np.int32)
    tensor = triton.InferInput(spec.name, list(array.shape), _DATATYPES[spec.datatype])
    tensor.set_data_from_numpy(array)
    return tensor


def output_of(request_id: str, result: InferResult) -> Output:
    """Return the output in a response to a generation request."""
    received = response_tensors(result)
    logprobs = text_of(received, tensors.LOGPROBS)
    prompt_logprobs = text_of(received, tensors.PROMPT_LOGPROBS)
    marks = received.get(tensors.MARKS.name)
    prompt_bytes = received.get(tensors.PROMPT_BYTES.name)
    return Output(
        request_id=request_id,
        text=text_of(received, tensors.TEXT_OUTPUT) or "",
        token_ids=_integers(received, tensors.OUTPUT_IDS) or (),
        num_output_tokens=sum(_integers(received, tensors.NUM_OUTPUT_TOKENS) or ()),
        num_reasoning_tokens=sum(_integers(received, tensors.NUM_REASONING_TOKENS) or ()),
        num_accepted_drafts=sum(_integers(received, tensors.NUM_ACCEPTED_DRAFTS) or ()),
        num_rejected_drafts=sum(_integers(received, tensors.NUM_REJECTED_DRAFTS) or ()),
        num_input_tokens=sum(_integers(received, tensors.NUM_INPUT_TOKENS) or ()),
        num_cached_tokens=sum(_integers(received, tensors.NUM_CACHED_TOKENS) or ()),
        num_image_tokens=sum(_integers(received, tensors.NUM_IMAGE_TOKENS) or ()),
        num_video_tokens=sum(_integers(received, tensors.NUM_VIDEO_TOKENS) or ()),
        finish_reason=text_of(received, tensors.FINISH_REASON) or None,
        stop_reason=text_of(received, tensors.STOP_REASON),
        prompt_ids=_integers(received, tensors.PROMPT_IDS),
        prompt_text=text_of(received, tensors.PROMPT_TEXT),
        prompt_bytes=None if prompt_bytes is None else tuple(prompt_bytes.reshape(-1).tolist()),
        logprobs=None if logprobs is None else parse_logprobs(logprobs),
        prompt_logprobs=None if prompt_logprobs is None else parse_logprobs(prompt_logprobs),
        marks=() if marks is None else tuple(Mark(*row) for row in marks.tolist()),
        prompt_tag=text_of(received, tensors.PROMPT_TAG),
    )


def response_tensors(result: InferResult) -> ResponseTensors:
    """Return the tensors of a response by name; asking tritonclient for a missing one is slow."""
    return {each.name: result.as_numpy(each.name) for each in result.get_response().outputs}


def text_of(received: ResponseTensors, spec: tensors.TensorSpec) -> str | None:
    """Return the text in a tensor of a response; None if it is missing or empty."""
    array = received.get(spec.name)
    if array is None or array.size == 0:
        return None
    text: str = array.reshape(-1)[0].decode()
    return text


def _integers(received: ResponseTensors, spec: tensors.TensorSpec) -> tuple[int, ...] | None:
    array = received.get(spec.name)
    return None if array is None else tuple(array.reshape(-1).tolist())
