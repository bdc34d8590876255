"""Requests and responses as tritonclient's tensors, by the specifications in ``ernie_wire.tensors``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.grpc import InferResult

from ernie_wire import tensors
from ernie_wire.errors import InternalError
from ernie_wire.frames import FrameError
from ernie_wire.messages import GenerateRequest, Output, join_outputs, unpack_outputs

logger = logging.getLogger(__name__)
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


def output_of(result: InferResult) -> Output:
    """Return the output in a response to a generation request.

    Raises:
        InternalError: the model is not of this version.
    """
    response = result.get_response()
    is_frame = [each.name for each in response.outputs] == [tensors.OUTPUTS_FRAME.name]
    try:
        return join_outputs(unpack_outputs(response.raw_output_contents[0] if is_frame else b""))
    except FrameError as error:
        logger.warning("the model %s answered with %s", response.model_name, error)
        raise other_version(response.model_name) from error


def other_version(model: str) -> InternalError:
    """Return the error of a model whose answers this version does not read."""
    return InternalError(f"the model {model} is of another version; install the same ernie-triton everywhere")


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
