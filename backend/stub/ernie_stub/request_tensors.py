"""The tensors of a Triton request as a GenerateRequest or a Control.

Triton has checked types and shapes against config.pbtxt; what it does not check is checked here: UTF-8, JSON,
sizes and limits.
"""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_wire import tensors
from ernie_wire.data_urls import read_data_url
from ernie_wire.errors import InvalidValue
from ernie_wire.json_text import read_json_object
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters, read_texts
from ernie_wire.status import Control, parse_control

MAX_REQUEST_ID_CHARACTERS = 256
MAX_TENSOR_BYTES = 16 << 20
"""Larger than any context; even escaped as JSON, at six times the size, it fits into a frame."""
_FLAGS = [spec for spec in tensors.FIELDS if spec.datatype == "TYPE_BOOL" and spec is not tensors.EXCLUDE_INPUT]
_DATA = b"data:"  # no image or video begins like that
RESERVED_PARAMETERS = "triton_"  # prefix of Triton's own request parameters
_TYPES = {"TYPE_STRING": (bytes, "BYTES"), "TYPE_BOOL": (bool, "BOOL"), "TYPE_INT32": (int, "INT32")}
"""The Python type of an element, and KServe's name of the type, by Triton's name."""


def read_request(triton_request: Any) -> GenerateRequest | Control:  # noqa: ANN401 - Triton's own class
    """Return the content of a Triton request.

    Raises:
        InvalidValue: a tensor is invalid; the error names it.
    """
    inputs = {tensor.name(): tensor.as_numpy() for tensor in triton_request.inputs()}
    if tensors.CONTROL.name in inputs:
        return _control(inputs)
    flags: dict[str, Any] = {spec.name: _single(inputs, spec) or False for spec in _FLAGS}
    return GenerateRequest(
        request_id=_request_id(inputs),
        text_input=_text(inputs, tensors.TEXT_INPUT),
        input_ids=_token_ids(inputs, tensors.INPUT_IDS),
        messages=_single(inputs, tensors.MESSAGES),
        media=_media(inputs),
        sampling=_sampling(inputs, triton_request),
        exclude_input_in_output=_is_input_excluded(inputs, stream=flags["stream"]),
        priority=_single(inputs, tensors.PRIORITY) or 0,
        cache_salt=_text(inputs, tensors.CACHE_SALT) or "",
        deliver_to=_text(inputs, tensors.DELIVER_TO) or "",
        **flags,
    )


def _control(inputs: dict[str, NDArray[Any]]) -> Control:
    others = sorted(set(inputs) - {tensors.CONTROL.name})
    if others:
        raise InvalidValue(f"control must be alone in its request; it came with {', '.join(others)}", "control")
    return parse_control(_text(inputs, tensors.CONTROL) or "")


def _is_input_excluded(inputs: dict[str, NDArray[Any]], *, stream: bool) -> bool:
    flag: bool | None = _single(inputs, tensors.EXCLUDE_INPUT)
    is_excluded = stream if flag is None else flag
    if stream and not is_excluded:
        raise InvalidValue(
            "exclude_input_in_output is false and stream is true; a stream never repeats its input: leave "
            "exclude_input_in_output out, or set stream to false",
            tensors.EXCLUDE_INPUT.name,
        )
    return is_excluded


def _request_id(inputs: dict[str, NDArray[Any]]) -> str:
    request_id = _text(inputs, tensors.REQUEST_ID)
    if request_id is None:
        return str(uuid.uuid4())
    if not 0 < len(request_id) <= MAX_REQUEST_ID_CHARACTERS:
        raise InvalidValue(
            f"request_id has {len(request_id)} characters; it must have 1 to {MAX_REQUEST_ID_CHARACTERS}",
            tensors.REQUEST_ID.name,
        )
    if not request_id.isprintable():
        raise InvalidValue(
            f"request_id is {request_id!r}; it is logged and must be printable", tensors.REQUEST_ID.name
        )
    return request_id


def _media(inputs: dict[str, NDArray[Any]]) -> tuple[bytes, ...]:
    array = inputs.get(tensors.MEDIA.name)
    if array is None:
        return ()
    media = array.reshape(-1).tolist()
    if not all(isinstance(medium, bytes) for medium in media):
        raise InvalidValue("media must be of type BYTES", tensors.MEDIA.name)
    return tuple(_file(index, medium) for index, medium in enumerate(media))


def _file(index: int, medium: bytes) -> bytes:
    """Return a file; in JSON, which Triton's generate endpoints take, it is a ``data:`` URL."""
    if medium[: len(_DATA)].lower() != _DATA:
        return medium
    try:
        return read_data_url(medium.decode("latin-1"))
    except InvalidValue as error:
        raise InvalidValue(f"media[{index}]: {error.message}", tensors.MEDIA.name) from None


def _sampling(inputs: dict[str, NDArray[Any]], triton_request: Any) -> SamplingParameters:  # noqa: ANN401
    """Read the tensor, else the request's parameters, where Triton's generate endpoint puts unknown fields."""
    text = _text(inputs, tensors.SAMPLING_PARAMETERS)
    source = triton_request.parameters() or "{}" if text is None else text
    values = read_json_object(source, tensors.SAMPLING_PARAMETERS.name)
    if text is None:
        values = {name: value for name, value in values.items() if not name.startswith(RESERVED_PARAMETERS)}
    return SamplingParameters.from_json(read_texts(values))


def _text(inputs: dict[str, NDArray[Any]], spec: tensors.TensorSpec) -> str | None:
    value = _single(inputs, spec)
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        raise InvalidValue(f"{spec.name} is not UTF-8: {error}", spec.name) from None


def _single(inputs: dict[str, NDArray[Any]], spec: tensors.TensorSpec) -> Any:  # noqa: ANN401 - _TYPES has it
    """Return the one element of a tensor as a Python object; None if the tensor is missing."""
    array = inputs.get(spec.name)
    if array is None:
        return None
    if array.size != 1:
        raise InvalidValue(f"{spec.name} has shape {list(array.shape)}; it must be [1]", spec.name)
    value = array.reshape(()).item()
    kind, datatype = _TYPES[spec.datatype]
    if type(value) is not kind:
        raise InvalidValue(f"{spec.name} must be of type {datatype}", spec.name)
    if isinstance(value, bytes):
        _check_size(spec, len(value))
    return value


def _check_size(spec: tensors.TensorSpec, num_bytes: int) -> None:
    if num_bytes > MAX_TENSOR_BYTES:
        raise InvalidValue(
            f"{spec.name} has {num_bytes} bytes; at most {MAX_TENSOR_BYTES} are allowed", spec.name
        )


def _token_ids(inputs: dict[str, NDArray[Any]], spec: tensors.TensorSpec) -> tuple[int, ...] | None:
    array = inputs.get(spec.name)
    if array is None:
        return None
    if array.dtype != np.int32 or array.ndim != 1:
        raise InvalidValue(
            f"{spec.name} is {array.dtype} of shape {list(array.shape)}; it must be INT32 with one dimension",
            spec.name,
        )
    if array.size == 0:
        raise InvalidValue(f"{spec.name} is empty; it must have at least one token id", spec.name)
    _check_size(spec, array.nbytes)
    return tuple(array.tolist())
