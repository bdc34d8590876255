"""Tensors of a request -> GenerateRequest or control, and the errors on the way."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_stub.request_tensors import read_request
from ernie_wire.errors import InvalidValue
from ernie_wire.messages import MAX_MEDIA, MAX_MEDIA_BYTES, MAX_MEDIUM_BYTES, GenerateRequest
from ernie_wire.sampling import SamplingParameters
from ernie_wire.status import Control
from fakes.triton_python_backend_utils import InferenceRequest


def text(value: str | bytes) -> NDArray[Any]:
    return np.array([value.encode() if isinstance(value, str) else value], dtype=np.object_)


def flag(value: bool) -> NDArray[Any]:
    return np.array([value])


def ids(*values: int) -> NDArray[Any]:
    return np.array(values, dtype=np.int32)


def nested(levels: int) -> str:
    """Return an object with so many levels of nesting."""
    return '{"messages": ' + "[" * levels + "]" * levels + "}"


def read(parameters: str = "", **inputs: NDArray[Any]) -> GenerateRequest:
    request = read_request(InferenceRequest(inputs, parameters))
    assert isinstance(request, GenerateRequest)
    return request


def test_text_input_alone_is_enough() -> None:
    request = read(text_input=text("Grüße"))
    assert request.text_input == "Grüße"
    assert request.sampling == SamplingParameters()
    assert request == GenerateRequest(request.request_id, "Grüße")
    assert len(request.request_id) == 36
    assert read(text_input=text("a")).request_id != read(text_input=text("a")).request_id


def test_everything_that_can_be_asked_for() -> None:
    request = read(
        input_ids=ids(1, 2, 3),
        stream=flag(True),
        sampling_parameters=text('{"max_tokens": 3, "stop": ".", "logprobs": 2}'),
        return_finish_reason=flag(True),
        return_num_input_tokens=flag(True),
        return_num_output_tokens=flag(True),
        return_token_ids=flag(True),
        return_prompt_bytes=flag(True),
        return_marks=flag(True),
        return_outputs=flag(True),
        return_cumulative_logprob=flag(True),
        return_logprobs=flag(True),
        request_id=text("r1"),
        priority=ids(-7),
        cache_salt=text("s"),
    )
    assert request.input_ids == (1, 2, 3)
    assert request.sampling == SamplingParameters(max_tokens=3, stop=(".",), logprobs=2)
    assert request.return_token_ids
    assert request.request_id == "r1"
    assert request.priority == -7
    assert request.cache_salt == "s"
    assert request.stream
    assert request.exclude_input_in_output
    assert all(getattr(request, name) for name in dir(request) if name.startswith("return_"))


AS_TEXT = {
    "max_tokens": ("16", 16),
    "min_tokens": ("8", 8),
    "temperature": ("0.1", 0.1),
    "top_p": ("0.95", 0.95),
    "top_k": ("-1", -1),
    "min_p": ("1e-1", 0.1),
    "reasoning_max_tokens": ("6", 6),
    "response_max_tokens": ("7", 7),
    "repetition_penalty": ("1", 1),
    "frequency_penalty": ("-1.5", -1.5),
    "presence_penalty": ("0", 0),
    "seed": ("9007199254740993", 9007199254740993),  # no float
    "include_stop_str_in_output": ("true", True),
    "ignore_eos": ("True", True),
    "skip_special_tokens": ("false", False),
    "logprobs": ("2", 2),
    "prompt_logprobs": ("0", 0),
    "truncate_prompt_tokens": ("-1", -1),
}


def test_every_number_and_truth_value_may_be_text() -> None:
    """Triton's own sample client for the vLLM backend, and genai-perf, send them so."""
    scalars = (int, float, bool, int | None, float | None)
    hints = get_type_hints(SamplingParameters)
    assert AS_TEXT.keys() == {name for name, hint in hints.items() if hint in scalars}
    texts = {name: spelled for name, (spelled, _) in AS_TEXT.items()}
    expected = SamplingParameters.from_json({name: value for name, (_, value) in AS_TEXT.items()})
    as_tensor = read(text_input=text("a"), sampling_parameters=text(json.dumps(texts)))
    as_parameters = read(json.dumps(texts), text_input=text("a"))
    assert as_tensor.sampling == as_parameters.sampling == expected


def test_whole_numbers_in_text_may_have_a_point_and_texts_stay_texts() -> None:
    sampling = read('{"max_tokens": "16.0", "stop": "5", "bad_words": "true"}', text_input=text("a")).sampling
    assert sampling == SamplingParameters(max_tokens=16, stop=("5",), bad_words=("true",))


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, "many") for name in AS_TEXT]
    + [("max_tokens", "1.5"), ("max_tokens", ""), ("temperature", "nan"), ("top_p", "2"), ("logprobs", "true")]
    + [("ignore_eos", "1"), ("max_tokens", "true"), ("seed", "inf")],
)
def test_a_text_that_is_no_value_of_its_field_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidValue, match=f"^{name} is ") as caught:
        read(json.dumps({name: value}), text_input=text("a"))
    assert caught.value.param == name
    assert value in caught.value.message


def test_messages_and_media_are_bytes_that_nobody_looks_at() -> None:
    media = [bytes(range(256)), b"\xff"]
    request = read(messages=text(b"{\xff"), media=np.array(media, dtype=np.object_))
    assert (request.messages, request.media) == (b"{\xff", tuple(media))


def test_media_in_json_are_data_urls() -> None:
    media = [b"data:;base64,AP8=", b"DATA:image/png,%00a", b"dat"]
    request = read(messages=text(b"{}"), media=np.array(media, dtype=np.object_))
    assert request.media == (b"\0\xff", b"\0a", b"dat")
    with pytest.raises(InvalidValue, match=r"media\[1\]: a data: URL is not base64") as caught:
        read(messages=text(b"{}"), media=np.array([b"x", b"data:;base64,\xff"], dtype=np.object_))
    assert caught.value.param == "media"


def buffers(*sizes: int) -> NDArray[Any]:
    """Return media of so many bytes; equal ones share their memory."""
    array = np.empty(len(sizes), dtype=np.object_)
    made = {size: bytes(size) for size in set(sizes)}
    array[:] = [made[size] for size in sizes]
    return array


@pytest.mark.parametrize(
    ("inputs", "echo"),
    [
        ({}, "hi"),
        ({"exclude_input_in_output": flag(True)}, ""),
        ({"exclude_input_in_output": flag(False)}, "hi"),
        ({"stream": flag(True)}, ""),
        ({"stream": flag(True), "exclude_input_in_output": flag(True)}, ""),
    ],
)
def test_the_input_is_repeated_by_default_without_stream_only(
    inputs: dict[str, NDArray[Any]], echo: str
) -> None:
    request = read("", **{"text_input": text("hi"), **inputs})
    assert ("" if request.exclude_input_in_output else request.text_input) == echo


def test_request_parameters_are_sampling_parameters_if_there_is_no_tensor() -> None:
    parameters = '{"temperature": 0.5, "triton_enable_empty_final_response": true}'
    assert read(parameters, text_input=text("a")).sampling == SamplingParameters(temperature=0.5)
    request = read(parameters, text_input=text("a"), sampling_parameters=text('{"top_k": 2}'))
    assert request.sampling == SamplingParameters(top_k=2)


@pytest.mark.parametrize(
    ("inputs", "param", "message"),
    [
        ({}, "text_input", "exactly one"),
        ({"text_input": text("a"), "input_ids": ids(1)}, "text_input", "text_input and input_ids"),
        ({"text_input": np.array([1, 2])}, "text_input", "shape [2]"),
        ({"text_input": np.array([1])}, "text_input", "type BYTES"),
        ({"text_input": text(b"\xff\xfe")}, "text_input", "not UTF-8"),
        ({"input_ids": ids()}, "input_ids", "is empty"),
        ({"input_ids": np.array([1.0])}, "input_ids", "INT32"),
        ({"control": text(nested(989))}, "control", "nested"),
        (
            {"text_input": text("a"), "sampling_parameters": text(nested(989))},
            "sampling_parameters",
            "nested",
        ),
        ({"text_input": text("a" * ((16 << 20) + 1))}, "text_input", "16777216"),
        ({"input_ids": np.zeros((4 << 20) + 1, np.int32)}, "input_ids", "16777216"),
        (
            {"text_input": text("a"), "sampling_parameters": text('{"temperature": 1' + "0" * 400 + "}")},
            "temperature",
            "too large",
        ),
        ({"messages": text("x" * ((16 << 20) + 1))}, "messages", "16777216"),
        ({"messages": text("{}"), "media": np.array([1])}, "media", "type BYTES"),
        (
            {"messages": text("{}"), "media": buffers(1, 0)},
            "media",
            "media[1] has 0 bytes",
        ),
        ({"messages": text("{}"), "media": buffers(MAX_MEDIUM_BYTES + 1)}, "media", "67108864"),
        (
            {"messages": text("{}"), "media": buffers(*[MAX_MEDIA_BYTES // 2] * 2, 1)},
            "media",
            "134217729 bytes",
        ),
        (
            {"messages": text("{}"), "media": buffers(*[1] * (MAX_MEDIA + 1))},
            "media",
            "256",
        ),
        ({"text_input": text("a"), "stream": np.array([1])}, "stream", "type BOOL"),
        ({"text_input": text("a"), "sampling_parameters": text("x")}, "sampling_parameters", "not JSON"),
        ({"text_input": text("a"), "sampling_parameters": text('{"top_p": 2}')}, "top_p", "in [0, 1]"),
        ({"text_input": text("a"), "sampling_parameters": text('{"tp": 2}')}, "tp", "no field"),
        ({"text_input": text("a"), "priority": flag(True)}, "priority", "type INT32"),
        ({"text_input": text("a"), "cache_salt": text("x" * 1025)}, "cache_salt", "1024"),
        ({"text_input": text("a"), "cache_salt": text("a\nb")}, "cache_salt", "printable"),
        ({"text_input": text("a"), "request_id": text("")}, "request_id", "1 to 256"),
        ({"text_input": text("a"), "request_id": text("x" * 257)}, "request_id", "1 to 256"),
        ({"text_input": text("a"), "request_id": text("a\nERROR b")}, "request_id", "printable"),
        (
            {"text_input": text("a"), "stream": flag(True), "exclude_input_in_output": flag(False)},
            "exclude_input_in_output",
            "input",
        ),
        ({"control": text('{"op": "health"}'), "text_input": text("a")}, "control", "alone"),
        ({"control": text("{")}, "control", "not JSON"),
        ({"control": text('{"op": "dance"}')}, "control", "cancel, describe, health"),
        ({"control": text('{"op": "cancel"}')}, "control", "needs request_id"),
    ],
)
def test_what_is_wrong_is_named(inputs: dict[str, NDArray[Any]], param: str, message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read_request(InferenceRequest(inputs))
    assert caught.value.param == param
    assert message in caught.value.message


def test_control() -> None:
    call = read_request(InferenceRequest({"control": text('{"op": "cancel", "request_id": "r"}')}))
    assert call == Control("cancel", "r")
