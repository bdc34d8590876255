"""Outputs of the engine as Triton responses, with the outputs that the request asked for.

This module must not know when a response is sent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ernie_stub.request_tensors import ResponseOptions
from ernie_wire import tensors
from ernie_wire.errors import ErnieError
from ernie_wire.logprobs import logprobs_to_json
from ernie_wire.marked_text import Mark, MarkedText, joined
from ernie_wire.messages import Output


def output_response(output: Output, options: ResponseOptions, echo: str) -> Any:  # noqa: ANN401 - Triton's class
    """Return the response for new output.

    Args:
        output: what is new since the last response to this request.
        options: the outputs asked for.
        echo: what ``text_output`` begins with: the prompt in the first response if asked for, else nothing.
    """
    text = joined((MarkedText(echo), output))
    made = [_text(tensors.TEXT_OUTPUT, text.text)]
    if options.marks and text.marks:
        made.append(_numbers(tensors.MARKS, text.marks, np.int32))
    if options.finish_reason:
        made.append(_text(tensors.FINISH_REASON, output.finish_reason or ""))
    if options.num_input_tokens:
        made.append(_numbers(tensors.NUM_INPUT_TOKENS, [output.num_input_tokens], np.uint32))
        made.append(_numbers(tensors.NUM_CACHED_TOKENS, [output.num_cached_tokens], np.uint32))
    if options.num_output_tokens:
        made.append(_numbers(tensors.NUM_OUTPUT_TOKENS, [len(output.token_ids)], np.uint32))
    if options.token_ids:
        made.append(_numbers(tensors.OUTPUT_IDS, output.token_ids, np.int32))
        if output.prompt_ids is not None:
            made.append(_numbers(tensors.PROMPT_IDS, output.prompt_ids, np.int32))
        if output.prompt_text is not None:
            made.append(_text(tensors.PROMPT_TEXT, output.prompt_text))
    for spec, entries in (
        (tensors.LOGPROBS, output.logprobs),
        (tensors.PROMPT_LOGPROBS, output.prompt_logprobs),
    ):
        if entries is not None:
            made.append(_text(spec, json.dumps(logprobs_to_json(entries), separators=(",", ":"))))
    return pb_utils.InferenceResponse(output_tensors=made)


def control_response(answer: dict[str, Any]) -> Any:  # noqa: ANN401 - Triton's class
    """Return the response to a control."""
    return pb_utils.InferenceResponse(output_tensors=[_text(tensors.CONTROL_OUTPUT, json.dumps(answer))])


def error_response(error: ErnieError) -> Any:  # noqa: ANN401 - Triton's class
    """Return the response that carries an error as its line of text."""
    code = getattr(pb_utils.TritonError, error.triton_code)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(error.to_line(), code))


def _text(spec: tensors.TensorSpec, text: str) -> Any:  # noqa: ANN401 - Triton's class
    return pb_utils.Tensor(spec.name, np.array([text.encode()], dtype=np.object_))


def _numbers(spec: tensors.TensorSpec, values: Sequence[int | Mark], dtype: type) -> Any:  # noqa: ANN401
    return pb_utils.Tensor(spec.name, np.array(values, dtype=dtype))
