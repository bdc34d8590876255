"""The engine's settings in groups; what needs some of them takes a group, or all.

A field that ``setting`` makes can be given as a parameter of the model's entry, and as a flag of ``serve``. Its
name is the parameter's: FastDeploy's flag with underscores, where there is one. Its meaning is the flag's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.devices.backend import AUTO, CARD_STEP_TOKENS, DEVICES
from ernie_backend.devices.host import usable_cores
from ernie_backend.settings.kinds import (
    Choice,
    FirstPort,
    Integer,
    JsonObject,
    Kind,
    Number,
    OrNone,
    String,
    Switch,
)
from ernie_backend.settings.media_values import ProcessorKwargs, PromptLimits
from ernie_backend.settings.speculative_config import Speculation, SpeculativeConfig
from ernie_backend.weights.precision import DTYPES, QUANTIZATIONS
from ernie_backend.weights.sharding import MAX_RANKS, Shard, shard_of
from ernie_kernels.formats import ActivationType

RAW_LOGPROBS = "raw_logprobs"
LOGPROBS_MODES = (RAW_LOGPROBS, "raw_logits", "processed_logprobs", "processed_logits")
AUTO_PARSER = "auto"
REASONING_PARSERS = ("ernie-45-vl", "ernie-45-vl-thinking", "ernie-x1")
TOOL_CALL_PARSERS = ("ernie-45-vl-thinking", "ernie-x1")
DEFAULT_PARTIAL_PREFILLS = 4
"""A long prompt, a shorter one that passes it, and still shorter ones that pass both go on at once. Each holds
KV blocks for all of its prompt, so it is a small number."""
DEFAULT_PROCESSOR_CACHE_GIB = 0.25
"""About 17 of ERNIE-4.5-VL's largest images, or 100 screenshots."""
_T = TypeVar("_T")


class Setting(NamedTuple):
    """A setting's default, how it is read from a text, and its meaning."""

    default: Any
    kind: Kind
    meaning: str


def setting(default: _T, kind: Kind, meaning: str) -> _T:
    """Return the field of a setting; for the arguments see ``Setting``."""
    return field(default=default, metadata={"setting": Setting(default, kind, meaning)})


@dataclass(frozen=True)
class LoadSettings:
    """How a model is loaded.

    Attributes:
        quantization: None: not at all. A checkpoint that is quantized keeps its format.
        activation_dtype: how Linears see their inputs, where it fits their weights; the reader resolves auto.
        max_model_len: the length of the rotary table, too.
        weight_cache: None: quantized weights are not kept.
        has_int8_head: whether quantization includes the output head; the device decides.
    """

    dtype: str = setting("bfloat16", Choice(DTYPES), "type of unquantized weights and of the KV cache")
    quantization: str | None = setting(
        None,
        OrNone(Choice(QUANTIZATIONS), ("none", "bf16", "bfloat16")),
        "weight format: wint8, wint4 (of experts), wint4_all (of all layers, on CPUs) or w4a8; a format that "
        "config.json declares takes precedence",
    )
    activation_dtype: ActivationType = field(
        default=ActivationType.INT16,
        metadata={
            "setting": Setting(
                AUTO,
                Choice((AUTO, *(each.value for each in ActivationType))),
                "how activations are rounded before a layer: bfloat16 for bfloat16 weights, int16 and int8 for "
                "quantized ones; other weights see float32; auto is int8 on CPUs that multiply it faster "
                "(VNNI without AMX), else int16; an XPU has bfloat16 only, for all weights",
            )
        },
    )
    max_model_len: int = setting(2048, Integer(2), "maximum number of tokens of prompt and answer together")
    load_choices: str = setting(
        "default",
        Choice(("default", "default_v1", "dummy")),
        "default and default_v1 load the weights; dummy uses random ones, for benchmarks",
    )
    weight_cache: Path | None = setting(
        None,
        OrNone(String("DIRECTORY|off"), ("off",)),
        "directory that keeps quantized weights for the next start; off: none",
    )
    has_int8_head: bool = True

    @property
    def is_dummy(self) -> bool:
        """Whether the weights are random, so that a config.json is enough."""
        return self.load_choices == "dummy"


@dataclass(frozen=True)
class SchedulerLimits:
    """Limits of a step and of the queue.

    Attributes:
        max_num_waiting_tokens: a request that finds others in the queue and would exceed it is refused.
        max_waiting_time: None: no limit.
        max_num_partial_prefills: with 1, no prompt passes another.
        speculative_config: None: no guesses.
        max_prompt_logit_rows: prompt tokens whose logits one step computes because a request wants them.
        encoder_cache_tokens: tokens of media whose embeddings are kept: of two or three of the largest images,
            or of forty pages; 160 MiB at a width of 2,560.
        max_media_bytes: prepared media of all requests; one that finds others and would exceed it is refused.
    """

    max_num_seqs: int = setting(8, Integer(1, 4096), "maximum number of requests processed at once")
    max_num_batched_tokens: int = setting(
        CARD_STEP_TOKENS,
        Integer(1, 1 << 20),
        "maximum number of tokens in one step; longer prompts are split; running answers wait for its end",
    )
    max_num_waiting: int = setting(
        512, Integer(1, 1 << 20), "maximum number of requests in the queue; above it 429"
    )
    max_num_waiting_tokens: int = setting(
        1 << 20, Integer(1, 1 << 40), "maximum number of prompt tokens in the queue; above it 429"
    )
    max_waiting_time: float | None = setting(
        None, OrNone(Number(), ("-1", "-1.0")), "seconds that a request may wait in the queue; -1: no limit"
    )
    max_num_partial_prefills: int = setting(
        DEFAULT_PARTIAL_PREFILLS,
        Integer(1, 4096),
        "prompts that may be unfinished at once: shorter ones share the steps of a long one; with 1 they wait",
    )
    max_long_partial_prefills: int = setting(
        DEFAULT_PARTIAL_PREFILLS, Integer(1, 4096), "maximum number of long prompts among these"
    )
    long_prefill_token_threshold: int = setting(
        0, Integer(), "tokens of the longest prompt that does not count as long"
    )
    speculative_config: SpeculativeConfig | None = setting(
        None,
        Speculation(),
        'guesses of the next tokens, checked in one step; answers stay the same; {"method": "ngram"} looks '
        "them up in prompt and answer",
    )
    max_prompt_logit_rows: int = 64
    encoder_cache_tokens: int = 16384
    max_media_bytes: int = 1 << 30

    @property
    def prompt_tokens_beside_answers(self) -> int:
        """Most prompt tokens of a step that running answers wait for.

        What would be left if all ``max_num_seqs`` were decoding, or half of a step if that is more: the same
        while few are, so that prompts which arrive as fast as answers end do not queue.
        """
        return max(self.max_num_batched_tokens - self.max_num_seqs, -(-self.max_num_batched_tokens // 2))


@dataclass(frozen=True)
class CacheSettings:
    """The KV cache, and the memory that it and the weights may take."""

    gpu_memory_utilization: float = setting(
        0.9, Number(0, 1), "share of the device's memory to use; on a CPU, of the free memory"
    )
    num_gpu_blocks_override: int | None = setting(None, Integer(1), "number of KV cache blocks")
    block_size: int = setting(64, Integer(1, 4096), "tokens per KV cache block")
    kv_cache_dtype: str = setting(
        "auto",
        Choice(("auto", "int8")),
        "type of the KV cache; auto: int8 if the checkpoint says so, else that of --dtype",
    )
    enable_prefix_caching: bool = setting(
        True, Switch(has_opposite=True), "requests share the KV cache of a common prompt prefix"
    )


@dataclass(frozen=True)
class LogprobLimits:
    """Which log probabilities a request may ask for, and what they are (``runner.logprobs``).

    Attributes:
        max_logprobs: -1: as many as the vocabulary has.
    """

    enable_logprob: bool = setting(
        True, Switch(has_opposite=True), "allow requests to ask for log probabilities"
    )
    max_logprobs: int = setting(
        20, Integer(-1), "maximum number of alternatives that a request may ask for; -1: no limit"
    )
    logprobs_mode: str = setting(
        RAW_LOGPROBS, Choice(LOGPROBS_MODES), "which values are returned as log probabilities"
    )


@dataclass(frozen=True)
class ParserSettings:
    """Which parsers take answers apart (``chat.formats``); None: none."""

    reasoning_parser: str | None = setting(
        AUTO_PARSER,
        OrNone(Choice((AUTO_PARSER, *REASONING_PARSERS)), ("none",)),
        "format of the thinking in answers; auto: as the model's template writes it; none: it stays text",
    )
    tool_call_parser: str | None = setting(
        AUTO_PARSER,
        OrNone(Choice((AUTO_PARSER, *TOOL_CALL_PARSERS)), ("none",)),
        "format of tool calls in answers; auto: as the model's template writes them; none: they stay text",
    )


@dataclass(frozen=True)
class MediaSettings:
    """Images and videos: how they are prepared, how many a request may have, what is kept of them (``media``).

    Attributes:
        max_processor_cache: below 0: the default.
    """

    mm_processor_kwargs: ProcessorKwargs = setting(
        ProcessorKwargs(),
        JsonObject(ProcessorKwargs),
        "how images and videos are resized, and videos sampled; requests can change it within these limits",
    )
    limit_mm_per_prompt: PromptLimits = setting(
        PromptLimits(), JsonObject(PromptLimits), "maximum number of images and videos in a request"
    )
    max_processor_cache: float = setting(
        -1.0,
        Number(-1, 1 << 20, is_included=True),
        "GiB of prepared images and videos that are kept for further requests; -1: 0.25",
    )

    mm_boundary_experts: str = setting(
        "vision",
        Choice(("vision", "text")),
        "experts for the tokens before and after an image or a video, in ERNIE-4.5-VL: those of vision, as in "
        "training, or those of text, as in FastDeploy",
    )

    @property
    def processor_cache_bytes(self) -> int:
        """Bytes of prepared images and videos that are kept."""
        gib = self.max_processor_cache if self.max_processor_cache >= 0 else DEFAULT_PROCESSOR_CACHE_GIB
        return int(gib * (1 << 30))


@dataclass(frozen=True)
class ParallelSettings:
    """The ranks that share a model, and where they are (``parallel.layout``)."""

    tensor_parallel_size: int = setting(
        1,
        Integer(1, MAX_RANKS),
        "devices that share the model; must divide the model's head counts and widths",
    )
    enable_expert_parallel: bool = setting(
        False, Switch(), "each device holds whole experts instead of a part of every expert"
    )
    ips: str = setting(
        "",
        String("ADDRESS"),
        "machines that share the model, the one with the API first; the same command runs on each",
    )
    engine_worker_queue_port: int = setting(
        8002,
        FirstPort(),
        "with --ips: port of the first machine to which the others connect; otherwise unused",
    )

    def shard(self, config: ModelConfig, rank: int = 0) -> Shard:
        """Return which part of a model a rank has."""
        size = self.tensor_parallel_size
        return shard_of(config, rank, size, is_expert_parallel=self.enable_expert_parallel)


@dataclass(frozen=True)
class EngineSettings:
    """All settings of an engine.

    Attributes:
        model: directory of the checkpoint.
        notices: messages for the user about values that were changed or ignored.
    """

    model: Path
    served_model_name: str = setting(
        "", String("NAME"), "the only model name that requests may use, apart from 'default'"
    )
    chat_template: str = setting("", String("PATH|JINJA"), "chat template: a path, or the Jinja text itself")
    device: str = setting(AUTO, Choice(DEVICES), "where the model runs; auto: an XPU if there is one")
    threads: int = field(
        default_factory=usable_cores,
        metadata={"setting": Setting(None, Integer(1, 1024), "compute threads, on a CPU")},
    )
    loading: LoadSettings = field(default_factory=LoadSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    scheduler: SchedulerLimits = field(default_factory=SchedulerLimits)
    logprobs: LogprobLimits = field(default_factory=LogprobLimits)
    parsers: ParserSettings = field(default_factory=ParserSettings)
    media: MediaSettings = field(default_factory=MediaSettings)
    parallel: ParallelSettings = field(default_factory=ParallelSettings)
    notices: tuple[str, ...] = ()

    @property
    def image_max_pixels(self) -> int | None:
        """Pixels of the largest image; None: the model's own limit."""
        return self.media.mm_processor_kwargs.image_max_pixels

    @property
    def blocks_per_request(self) -> int:
        """KV cache blocks of one request of ``max_model_len`` tokens."""
        return -(-self.loading.max_model_len // self.cache.block_size)

    @property
    def cache_dtype(self) -> str:
        """Type of the KV cache."""
        return self.loading.dtype if self.cache.kv_cache_dtype == "auto" else self.cache.kv_cache_dtype

    @property
    def flat(self) -> Mapping[str, Any]:
        """The values of all groups by their names, which no two groups share."""
        values: dict[str, Any] = {}
        for name, value in vars(self).items():
            values |= vars(value) if is_dataclass(value) else {name: value}
        return values

    def replaced(self, **values: Any) -> EngineSettings:  # noqa: ANN401 - each setting has its own type
        """Return these settings with other values, by the names of ``flat``."""
        changes: dict[str, Any] = {}
        for name, group in vars(self).items():
            if is_dataclass(group) and not isinstance(group, type):
                inner = [each.name for each in fields(group) if each.name in values]
                changes[name] = replace(group, **{each: values.pop(each) for each in inner})
        return replace(self, **changes, **values)


SETTINGS: Mapping[str, Setting] = {
    each.name: each.metadata["setting"]
    for group in (
        EngineSettings,
        LoadSettings,
        SchedulerLimits,
        CacheSettings,
        LogprobLimits,
        ParserSettings,
        MediaSettings,
        ParallelSettings,
    )
    for each in fields(group)
    if "setting" in each.metadata
}
"""All that can be given, by name."""
