"""Outputs of the engine as Triton responses, with the tensors that the request selects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ernie_wire import tensors
from ernie_wire.errors import ErnieError
from ernie_wire.logprobs import logprobs_to_json, logprobs_to_vllm
from ernie_wire.marked_text import Mark, MarkedText, joined
from ernie_wire.messages import GenerateRequest, Output, pack_outputs
from ernie_wire.status import Cancelled, Health, Status, answer_text


def output_response(output: Output, request: GenerateRequest, echo: str, cumulative_logprob: float) -> Any:  # noqa: ANN401 - Triton's class
    """Return the response for an output.

    Args:
        output: everything since the last response to this request.
        request: selects the tensors.
        echo: the beginning of ``text_output``: the prompt in the first response if requested, else empty.
        cumulative_logprob: of all tokens so far.
    """
    if request.return_outputs:
        return outputs_response((output.renamed(request.request_id),))
    text = joined((MarkedText(echo), output))
    outputs = [_text(tensors.TEXT_OUTPUT, text.text)]
    if request.return_marks and text.marks:
        outputs.append(_numbers(tensors.MARKS, text.marks, np.int32))
    if request.return_marks and output.prompt_tag is not None:
        outputs.append(_text(tensors.PROMPT_TAG, output.prompt_tag))
    if request.return_finish_reason:
        outputs.append(_text(tensors.FINISH_REASON, output.finish_reason or ""))
        if output.stop_reason is not None:
            outputs.append(_text(tensors.STOP_REASON, output.stop_reason))
    if request.return_num_input_tokens:
        outputs.append(_numbers(tensors.NUM_INPUT_TOKENS, [output.num_input_tokens], np.uint32))
        outputs.append(_numbers(tensors.NUM_CACHED_TOKENS, [output.num_cached_tokens], np.uint32))
        outputs.append(_numbers(tensors.NUM_IMAGE_TOKENS, [output.num_image_tokens], np.uint32))
        outputs.append(_numbers(tensors.NUM_VIDEO_TOKENS, [output.num_video_tokens], np.uint32))
    if request.return_num_output_tokens:
        outputs.append(_numbers(tensors.NUM_OUTPUT_TOKENS, [output.num_output_tokens], np.uint32))
        outputs.append(_numbers(tensors.NUM_REASONING_TOKENS, [output.num_reasoning_tokens], np.uint32))
        outputs.append(_numbers(tensors.NUM_ACCEPTED_DRAFTS, [output.num_accepted_drafts], np.uint32))
        outputs.append(_numbers(tensors.NUM_REJECTED_DRAFTS, [output.num_rejected_drafts], np.uint32))
    if request.return_token_ids:
        outputs.append(_numbers(tensors.OUTPUT_IDS, output.token_ids, np.int32))
        outputs += _prompt(output)
    if request.return_cumulative_logprob:
        outputs.append(_numbers(tensors.CUMULATIVE_LOGPROB, [cumulative_logprob], np.float32))
    outputs += _logprobs(output, request)
    return pb_utils.InferenceResponse(output_tensors=outputs)


def outputs_response(outputs: Iterable[Output]) -> Any:  # noqa: ANN401 - Triton's class
    """Return the response with outputs as they are: one tensor, as each costs time in Triton."""
    frame = np.frombuffer(pack_outputs(outputs), np.uint8)
    return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(tensors.OUTPUTS_FRAME.name, frame)])


def _prompt(output: Output) -> list[Any]:
    """Return the parts of the prompt that the output has."""
    outputs = []
    if output.prompt_ids is not None:
        outputs.append(_numbers(tensors.PROMPT_IDS, output.prompt_ids, np.int32))
    if output.prompt_text is not None:
        outputs.append(_text(tensors.PROMPT_TEXT, output.prompt_text))
    if output.prompt_bytes is not None:
        outputs.append(
            pb_utils.Tensor(tensors.PROMPT_BYTES.name, np.array(output.prompt_bytes, dtype=np.object_))
        )
    return outputs


def _logprobs(output: Output, request: GenerateRequest) -> list[Any]:
    outputs, are_requested = [], request.sampling.logprobs is not None
    if request.return_logprobs:
        entries = logprobs_to_vllm(output.logprobs or ()) if are_requested else None
        outputs.append(_json(tensors.LOGPROBS, entries))
    elif are_requested and output.logprobs is not None:
        outputs.append(_json(tensors.LOGPROBS, logprobs_to_json(output.logprobs)))
    if output.prompt_logprobs is not None:
        outputs.append(_json(tensors.PROMPT_LOGPROBS, logprobs_to_json(output.prompt_logprobs)))
    return outputs


def control_response(answer: Health | Status | Cancelled) -> Any:  # noqa: ANN401 - Triton's class
    """Return the response to a control."""
    return pb_utils.InferenceResponse(output_tensors=[_text(tensors.CONTROL_OUTPUT, answer_text(answer))])


def error_response(error: ErnieError) -> Any:  # noqa: ANN401 - Triton's class
    """Return the response that carries an error as its line of text."""
    code = getattr(pb_utils.TritonError, error.triton_code)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(error.to_line(), code))


def _text(spec: tensors.TensorSpec, text: str) -> Any:  # noqa: ANN401 - Triton's class
    return pb_utils.Tensor(spec.name, np.array([text.encode()], dtype=np.object_))


def _json(spec: tensors.TensorSpec, value: object) -> Any:  # noqa: ANN401 - Triton's class
    return _text(spec, json.dumps(value, separators=(",", ":")))


def _numbers(spec: tensors.TensorSpec, values: Sequence[float | Mark], dtype: type) -> Any:  # noqa: ANN401
    return pb_utils.Tensor(spec.name, np.array(values, dtype=dtype))
