"""The tensors of a model entry: names, types and shapes, and the config.pbtxt made of them.

The names are those of Triton's vLLM backend, so that ``generate_stream``, perf_analyzer and genai-perf work
unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model entry.

    Attributes:
        name: tensor name on the wire.
        datatype: Triton configuration type, e.g. ``TYPE_STRING`` (``BYTES`` in KServe).
        meaning: one line for the documentation.
        dims: shape; -1 is any length.
    """

    name: str
    datatype: str
    meaning: str
    dims: tuple[int, ...] = (1,)


TEXT_INPUT = TensorSpec("text_input", "TYPE_STRING", "a raw prompt, without a chat template")
INPUT_IDS = TensorSpec("input_ids", "TYPE_INT32", "a prompt as token ids", dims=(-1,))
MESSAGES = TensorSpec(
    "messages", "TYPE_STRING", "JSON object with a conversation, see below; the engine renders it"
)
MEDIA = TensorSpec(
    "media",
    "TYPE_STRING",
    "files of images and videos, which parts of messages refer to by index; refused by text models",
    dims=(-1,),
)
SAMPLING_PARAMETERS = TensorSpec("sampling_parameters", "TYPE_STRING", "JSON object, see sampling.py")
EXCLUDE_INPUT = TensorSpec(
    "exclude_input_in_output",
    "TYPE_BOOL",
    "false: text_output begins with text_input; default false without stream, true with it",
)
REQUEST_ID = TensorSpec("request_id", "TYPE_STRING", "chosen by the client, for control cancel")
PRIORITY = TensorSpec(
    "priority", "TYPE_INT32", "lower values are scheduled first, equal ones by arrival; default 0"
)
CACHE_SALT = TensorSpec("cache_salt", "TYPE_STRING", "only requests with the same salt share the prefix cache")
DELIVER_TO = TensorSpec(
    "deliver_to", "TYPE_STRING", "id of a frontend's connection to outputs_socket, which then gets the outputs"
)
CONTROL = TensorSpec("control", "TYPE_STRING", "JSON with op cancel, describe or health; alone in its request")

FIELDS: tuple[TensorSpec, ...] = (
    TEXT_INPUT,
    INPUT_IDS,
    MESSAGES,
    MEDIA,
    TensorSpec("stream", "TYPE_BOOL", "true: one response per new text; false or missing: one response"),
    EXCLUDE_INPUT,
    TensorSpec("return_finish_reason", "TYPE_BOOL", "request finish_reason and stop_reason"),
    TensorSpec(
        "return_num_input_tokens", "TYPE_BOOL", "request num_input_tokens, num_cached_tokens and those of media"
    ),
    TensorSpec(
        "return_num_output_tokens",
        "TYPE_BOOL",
        "request num_output_tokens, num_reasoning_tokens, and the numbers of drafts",
    ),
    TensorSpec("return_token_ids", "TYPE_BOOL", "request output_ids, prompt_ids and prompt_text"),
    TensorSpec("return_prompt_bytes", "TYPE_BOOL", "request prompt_bytes, with return_token_ids"),
    TensorSpec("return_cumulative_logprob", "TYPE_BOOL", "request cumulative_logprob"),
    TensorSpec(
        "return_logprobs", "TYPE_BOOL", "true: logprobs in the format of Triton's vLLM backend, see below"
    ),
    TensorSpec("return_marks", "TYPE_BOOL", "request marks and prompt_tag"),
    TensorSpec("return_outputs", "TYPE_BOOL", "request outputs instead of all others; for the OpenAI frontend"),
    REQUEST_ID,
    PRIORITY,
    CACHE_SALT,
    DELIVER_TO,
)
"""The inputs that are fields of ``messages.GenerateRequest``, of the same name."""
INPUTS = (*FIELDS, SAMPLING_PARAMETERS, CONTROL)

TEXT_OUTPUT = TensorSpec("text_output", "TYPE_STRING", "the new text, or all of it without stream")
FINISH_REASON = TensorSpec("finish_reason", "TYPE_STRING", "stop or length in the last response, else empty")
STOP_REASON = TensorSpec(
    "stop_reason",
    "TYPE_STRING",
    "repetition_detected in the last response if the answer was cut because it repeats itself, else missing",
)
NUM_INPUT_TOKENS = TensorSpec("num_input_tokens", "TYPE_UINT32", "tokens of the prompt")
NUM_CACHED_TOKENS = TensorSpec(
    "num_cached_tokens", "TYPE_UINT32", "of these, the number found in the prefix cache"
)
NUM_IMAGE_TOKENS = TensorSpec(
    "num_image_tokens", "TYPE_UINT32", "of the prompt's tokens, those of images; in the first response, then 0"
)
NUM_VIDEO_TOKENS = TensorSpec("num_video_tokens", "TYPE_UINT32", "the same for videos")
NUM_OUTPUT_TOKENS = TensorSpec("num_output_tokens", "TYPE_UINT32", "tokens generated since the last response")
NUM_REASONING_TOKENS = TensorSpec(
    "num_reasoning_tokens", "TYPE_UINT32", "of these, the number that are thinking, including </think>"
)
NUM_ACCEPTED_DRAFTS = TensorSpec(
    "num_accepted_drafts",
    "TYPE_UINT32",
    "tokens guessed rightly since the last response (--speculative-config)",
)
NUM_REJECTED_DRAFTS = TensorSpec("num_rejected_drafts", "TYPE_UINT32", "the same for wrong guesses")
OUTPUT_IDS = TensorSpec("output_ids", "TYPE_INT32", "token ids generated since the last response", dims=(-1,))
PROMPT_IDS = TensorSpec(
    "prompt_ids", "TYPE_INT32", "token ids of the prompt, in the first response", dims=(-1,)
)
PROMPT_TEXT = TensorSpec("prompt_text", "TYPE_STRING", "the rendered prompt, in the first response")
PROMPT_BYTES = TensorSpec(
    "prompt_bytes", "TYPE_STRING", "what each token of the prompt stands for, in the first response", dims=(-1,)
)
CUMULATIVE_LOGPROB = TensorSpec(
    "cumulative_logprob", "TYPE_FP32", "sum of the log probabilities of all tokens generated so far"
)
LOGPROBS = TensorSpec(
    "logprobs",
    "TYPE_STRING",
    "JSON list, one entry for each of output_ids; if sampling_parameters request logprobs",
)
PROMPT_LOGPROBS = TensorSpec(
    "prompt_logprobs",
    "TYPE_STRING",
    "JSON list, one entry for each token of the prompt, null for its first; in the first response",
)
MARKS = TensorSpec(
    "marks",
    "TYPE_INT32",
    "rows of start, end and token id: the characters of text_output that are one structural token",
    dims=(-1, 3),
)
PROMPT_TAG = TensorSpec(
    "prompt_tag",
    "TYPE_STRING",
    "last thinking tag of the prompt, <think> or </think>, empty if there is none; in the first response",
)
OUTPUTS_FRAME = TensorSpec(
    "outputs",
    "TYPE_UINT8",
    "everything in one tensor: a frame of messages.Outputs, which only the same version reads",
    dims=(-1,),
)
CONTROL_OUTPUT = TensorSpec("control_output", "TYPE_STRING", "JSON answer to control")

OUTPUTS: tuple[TensorSpec, ...] = (
    TEXT_OUTPUT,
    FINISH_REASON,
    STOP_REASON,
    NUM_INPUT_TOKENS,
    NUM_CACHED_TOKENS,
    NUM_IMAGE_TOKENS,
    NUM_VIDEO_TOKENS,
    NUM_OUTPUT_TOKENS,
    NUM_REASONING_TOKENS,
    NUM_ACCEPTED_DRAFTS,
    NUM_REJECTED_DRAFTS,
    OUTPUT_IDS,
    PROMPT_IDS,
    PROMPT_TEXT,
    PROMPT_BYTES,
    CUMULATIVE_LOGPROB,
    LOGPROBS,
    PROMPT_LOGPROBS,
    MARKS,
    PROMPT_TAG,
    OUTPUTS_FRAME,
    CONTROL_OUTPUT,
)


def _pbtxt_tensor(kind: str, spec: TensorSpec) -> str:
    dims = ", ".join(str(dim) for dim in spec.dims)
    optional = ", optional: true" if kind == "input" else ""
    return f'  {{ name: "{spec.name}", data_type: {spec.datatype}, dims: [ {dims} ]{optional} }}'


def config_pbtxt(name: str, parameters: dict[str, str]) -> str:
    """Return the text of a model entry's config.pbtxt.

    Args:
        name: of the entry, equal to its directory's.
        parameters: of the entry, all strings: ``model``, ``engine_python`` and engine settings.
    """
    inputs = ",\n".join(_pbtxt_tensor("input", spec) for spec in INPUTS)
    outputs = ",\n".join(_pbtxt_tensor("output", spec) for spec in OUTPUTS)
    entries = "\n".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{_escape(value)}" }} }}'
        for key, value in parameters.items()
    )
    return (
        f"# Generated, which tests check: python -m ernie_wire model_repository rewrites the tensors,\n"
        f"# python -m ernie_cli.presets model_repository the entries of released models.\n"
        f'name: "{name}"\n'
        f'backend: "python"\n'
        f"max_batch_size: 0\n"
        f"model_transaction_policy {{ decoupled: true }}\n"
        f"instance_group [ {{ kind: KIND_MODEL, count: 1 }} ]\n"
        f"input [\n{inputs}\n]\n"
        f"output [\n{outputs}\n]\n"
        f"{entries}\n"
    )


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
