"""The status of a model entry: ``control`` requests, their answers, and the engine's description.

Field names are those of the JSON that clients of Triton get.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from ernie_wire.codec import Codec, Extensible, MessageError
from ernie_wire.errors import InvalidValue
from ernie_wire.json_text import read_json_object

_OPS = ("cancel", "describe", "health")


@dataclass(frozen=True)
class Control:
    """A control request to the stub.

    Attributes:
        op: ``cancel``, ``describe`` or ``health``.
        request_id: the request to cancel; with ``health``, the request to look up.
    """

    op: str
    request_id: str | None = None

    def to_text(self) -> str:
        """Return the request as JSON, for ``parse_control``."""
        return json.dumps({name: value for name, value in vars(self).items() if value is not None})


def parse_control(text: str) -> Control:
    """Return the request in ``control``: ``{"op": "cancel", "request_id": ...}``, ``describe`` or ``health``.

    Raises:
        InvalidValue: not a JSON object, an unknown op, or a cancel without ``request_id``.
    """
    values = read_json_object(text, "control")
    op, request_id = values.get("op"), values.get("request_id")
    if op not in _OPS:
        raise InvalidValue(f"control has op {op!r}; known: {', '.join(_OPS)}", "control")
    if op == "cancel" and "request_id" not in values:
        raise InvalidValue("control cancel needs request_id, a string", "control")
    if "request_id" in values and not isinstance(request_id, str):
        raise InvalidValue(f"control has request_id {request_id!r}; it must be a string", "control")
    return Control(op, request_id)


@dataclass
class Stage(Extensible):
    """One stage of an engine's start.

    Attributes:
        name: what was done.
        seconds: how long it took.
        size_bytes: size of the data read or allocated; or None.
    """

    name: str
    seconds: float = 0.0
    size_bytes: int | None = None


@dataclass(frozen=True)
class Description(Extensible):
    """An engine and the capabilities of its model.

    Attributes:
        architecture: the one in config.json.
        root: directory of the model.
        modalities: inputs of the model: ``text``, ``image``, ``video``.
        limit_mm_per_prompt: most media of a request by modality; empty for a text model.
        max_model_len: maximum number of tokens of a prompt and its answer.
        max_num_seqs: maximum number of requests in a step.
        vocab_size: number of token ids.
        longest_token_bytes: length of the longest token's text in bytes; 0 if unknown.
        has_tokenizer: whether it accepts and returns text.
        device, dtype, quantization, activation_dtype: its device and number formats.
        kv_cache_dtype, kv_blocks, block_size: the KV cache, ``kv_blocks`` blocks of ``block_size`` tokens.
        enable_logprob, max_logprobs, logprobs_mode: its log probabilities, see parameters.md.
        reasoning_parser, tool_call_parser: names of the parsers for its answers, or None.
        knows_tools: whether its chat template uses ``tools``.
        special_tokens: texts of its special tokens by name: ``eos_token``, ``bos_token``, ...
        chat_template: the Jinja text that makes prompts of conversations.
        generation_config: its defaults for sampling parameters.
        startup: the stages of its start.
    """

    architecture: str
    root: str
    max_model_len: int
    max_num_seqs: int
    vocab_size: int
    longest_token_bytes: int
    has_tokenizer: bool
    device: str
    dtype: str
    quantization: str | None
    activation_dtype: str
    kv_cache_dtype: str
    kv_blocks: int
    block_size: int
    enable_logprob: bool
    max_logprobs: int
    logprobs_mode: str
    modalities: tuple[str, ...] = ("text",)
    limit_mm_per_prompt: Mapping[str, int] = field(default_factory=dict)
    reasoning_parser: str | None = None
    tool_call_parser: str | None = None
    knows_tools: bool = False
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    chat_template: str = ""
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    startup: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class Stats(Extensible):
    """An engine's statistics.

    Attributes:
        running, waiting: requests in the batch and in the queue.
        free_blocks, total_blocks: KV cache blocks.
        steps: steps run since the start.
        preemptions: number of preempted requests since the start.
        prefix_cache_queries, prefix_cache_hits: tokens looked up and found in the prefix cache.
    """

    running: int = 0
    waiting: int = 0
    free_blocks: int = 0
    total_blocks: int = 0
    steps: int = 0
    preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0


@dataclass(frozen=True, kw_only=True)
class Health(Stats):
    """The answer to ``health``: whether the engine is healthy, and its last statistics.

    Attributes:
        state: ``starting``, ``ready``, ``failed`` or ``unconfigured``.
        detail: why it is not ready; empty if it is.
        ready: whether it can answer requests now.
        alive_age_s: seconds since the last sign of life of its process; None if it is not ready.
        heartbeat_age_s: the same for its loop.
        generation: number of engines that became ready since the stub's start.
        instance: identifies the stub's start.
        in_flight: whether the request in question is in flight; None if there is none.
    """

    state: str
    detail: str = ""
    ready: bool = False
    alive_age_s: float | None = None
    heartbeat_age_s: float | None = None
    generation: int = 0
    instance: str = ""
    in_flight: bool | None = None


@dataclass(frozen=True)
class Status(Extensible):
    """The answer to ``describe``.

    Attributes:
        state, detail, generation, instance: as in ``Health``.
        engine: its description; None while it is not ready.
        outputs_socket: where frontends of the same machine get outputs: an abstract Unix address without the
            zero byte at its beginning.
    """

    state: str
    detail: str = ""
    generation: int = 0
    instance: str = ""
    engine: Description | None = None
    outputs_socket: str = ""


@dataclass(frozen=True)
class Cancelled(Extensible):
    """The answer to ``cancel``: whether the request was in flight, and so is cancelled."""

    cancelled: bool


A = TypeVar("A", Health, Status, Cancelled)
_CODEC: Codec[Any] = Codec(Health, Status, Cancelled)


def answer_text(answer: Health | Status | Cancelled) -> str:
    """Return an answer as JSON."""
    values = asdict(answer)
    if values.get("in_flight", ...) is None:
        del values["in_flight"]
    return json.dumps(values)


def read_answer(kind: type[A], text: str) -> A:
    """Return the answer in a text of ``answer_text``, also of other versions with the same required fields.

    Raises:
        MessageError: it is not such an answer, or of an incompatible version.
    """
    try:
        values = dict(json.loads(text))
    except (TypeError, ValueError) as error:
        raise MessageError("something that is not a JSON object") from error
    answer: A = _CODEC.decode({**values, "kind": kind.__name__}, [])
    return answer
