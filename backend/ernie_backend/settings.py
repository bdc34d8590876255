"""The engine's settings, from the parameters of the model entry.

All values arrive as strings; keys are FastDeploy's flag names with underscores. Everything is checked here,
against its own limits and against the model's config. This module must not know how a setting is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.devices.backend import AUTO, DEVICES, find_backend
from ernie_backend.devices.host import usable_cores
from ernie_backend.errors import StartError
from ernie_backend.runner.logprobs import LOGPROBS_MODES, RAW_LOGPROBS
from ernie_backend.scheduler.limits import DEFAULT_PARTIAL_PREFILLS
from ernie_backend.weights.precision import DTYPES, QUANTIZATIONS, check_activation_setting
from ernie_backend.weights.sharding import MAX_RANKS, Shard, check_split, expert_block
from ernie_kernels.formats import ACTIVATION_LEVELS, ActivationType

DEFAULT_ACTIVATION = ActivationType.INT16
"""The fastest activation type whose logits keep a cosine of 0.999 to those of float32 activations: int8 falls
to 0.985 on single tokens of the dense golden, see ``ernie_kernels.reference.linear``."""
KV_CACHE_DTYPES = ("auto", "int8")
DEFAULT_MEETING_PORT = 8002
LOAD_CHOICES = ("default", "default_v1", "dummy")
_T = TypeVar("_T")


@dataclass(frozen=True)
class EngineSettings:
    """How the engine runs; every field has the name of its parameter.

    Attributes:
        model: directory of the checkpoint. Needed.
        device: ``auto`` (default: an XPU if there is one, else the CPU), ``cpu``, ``reference`` or ``xpu``.
        dtype: unquantized weights and the KV cache: ``bfloat16`` (default) or ``float32``.
        quantization: None (default), ``wint8``, or ``wint4``: experts in int4, the rest as ``wint8``; ``w4a8``
            as ``wint4``, with int8 inputs of the experts. What config.json says of the checkpoint comes first.
        activation_dtype: how Linears see their inputs: quantized ones by default ``DEFAULT_ACTIVATION``, others
            float32, or bfloat16 where the weights are.
        max_model_len: tokens of prompt and answer together; default 2048, never above the model's
            max_position_embeddings.
        max_num_seqs: requests in one step; default 8.
        max_num_batched_tokens: tokens in one step; longer prompts are computed in chunks. Default on a CPU 256
            and ``max_num_seqs``, else 2048.
        max_num_waiting: requests in the queue, one more is refused; default 512.
        max_num_waiting_tokens: prompt tokens in the queue, a request that adds more is refused unless the queue
            is empty; default 1048576.
        max_waiting_time: seconds that a request may wait in the queue; default None (or -1): without limit.
        max_num_partial_prefills: prompts that may be unfinished at once, default 4: shorter ones share the
            steps of a long one; with 1 they wait for its end.
        max_long_partial_prefills: of these, long ones; default as many.
        long_prefill_token_threshold: tokens of the longest prompt that is not long; default (or 0) 4 % of
            ``max_model_len``.
        enable_logprob: whether requests may ask for log probabilities; default true.
        max_logprobs: how many tokens at one place they may ask for; default 20, -1 for the whole vocabulary.
        logprobs_mode: what they are, see ``runner.logprobs``; default ``raw_logprobs``.
        kv_cache_dtype: ``auto`` (default: as ``dtype``) or ``int8``, with a scale for each token and head if
            the checkpoint brings none; it is ``int8`` if config.json says that it does.
        enable_prefix_caching: whether requests share the KV cache of equal beginnings; default true.
        gpu_memory_utilization: part of the available memory that weights and KV cache may take; default 0.9.
        num_gpu_blocks_override: KV cache blocks, which must fit too and hold ``max_model_len`` tokens; default
            None: as many as fit, at most ``max_num_seqs`` times as many.
        block_size: tokens of a KV cache block; default 64.
        threads: threads that compute; default all cores this process may use. Ranks on one machine share them.
        tensor_parallel_size: ranks that share the model; default 1.
        enable_expert_parallel: whether each rank has whole experts, not a part of every expert; default false.
        ips: addresses of the machines that the ranks are on, with commas between, see ``parallel.layout``;
            default: this one.
        engine_worker_queue_port: port of the first one where they meet; default (or 0)
            ``DEFAULT_MEETING_PORT``.
        load_choices: ``default`` and ``default_v1`` read the checkpoint; ``dummy`` makes random weights, and
            config.json is enough.
        chat_template: a file, or the Jinja text itself; default the model's own.
        weight_cache: directory that keeps quantized weights for the next start, or ``off``; default
            ``$XDG_CACHE_HOME/ernie-triton/weights``, ``~/.cache`` where that is not set.
        served_model_name: for logs; default the name of the directory.
        notices: what the user should know about how his settings were read.
    """

    model: Path
    device: str = "auto"
    dtype: str = "bfloat16"
    quantization: str | None = None
    activation_dtype: ActivationType = DEFAULT_ACTIVATION
    max_model_len: int = 2048
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 264
    max_num_waiting: int = 512
    max_num_waiting_tokens: int = 1 << 20
    max_waiting_time: float | None = None
    max_num_partial_prefills: int = DEFAULT_PARTIAL_PREFILLS
    max_long_partial_prefills: int = DEFAULT_PARTIAL_PREFILLS
    long_prefill_token_threshold: int = 81
    enable_logprob: bool = True
    max_logprobs: int = 20
    logprobs_mode: str = RAW_LOGPROBS
    kv_cache_dtype: str = "auto"
    enable_prefix_caching: bool = True
    gpu_memory_utilization: float = 0.9
    num_gpu_blocks_override: int | None = None
    block_size: int = 64
    threads: int = 1
    tensor_parallel_size: int = 1
    enable_expert_parallel: bool = False
    ips: str = ""
    engine_worker_queue_port: int = DEFAULT_MEETING_PORT
    load_choices: str = "default"
    weight_cache: Path | None = None
    chat_template: str = ""
    served_model_name: str = ""
    notices: tuple[str, ...] = ()

    @property
    def is_dummy(self) -> bool:
        """Whether the weights are random."""
        return self.load_choices == "dummy"


def read_settings(parameters: Mapping[str, str], config: ModelConfig) -> EngineSettings:
    """Return the settings in an entry's parameters; absent or empty ones take their defaults.

    Parameters that are not the engine's are the stub's or the frontend's, and are left alone.

    Raises:
        StartError: a value is outside its limits; names the parameter, the value and the limit.
    """
    reader = _Reader(parameters)
    directory = model_directory(parameters)
    notices: list[str] = []
    load_choices = reader.choice("load_choices", LOAD_CHOICES, "default")
    dtype = reader.choice("dtype", DTYPES, "bfloat16")
    quantization = _quantization(reader, config, notices, is_dummy=load_choices == "dummy")
    max_model_len = _max_model_len(reader, config, notices)
    shard = _shard(reader, config, quantization)
    device = reader.choice("device", DEVICES, AUTO)
    max_num_seqs = reader.integer("max_num_seqs", 8, (1, 4096))
    partial_prefills = reader.integer("max_num_partial_prefills", DEFAULT_PARTIAL_PREFILLS, (1, 4096))
    step_tokens = find_backend(device)[0].step_tokens(max_num_seqs)
    return EngineSettings(
        model=directory,
        device=device,
        dtype=dtype,
        quantization=quantization,
        activation_dtype=_activation_dtype(reader, dtype, quantization, notices),
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=reader.integer("max_num_batched_tokens", step_tokens, (1, 1 << 20)),
        max_num_waiting=reader.integer("max_num_waiting", 512, (1, 1 << 20)),
        max_num_waiting_tokens=reader.integer("max_num_waiting_tokens", 1 << 20, (1, 1 << 40)),
        max_waiting_time=_max_waiting_time(reader),
        max_num_partial_prefills=partial_prefills,
        max_long_partial_prefills=reader.integer("max_long_partial_prefills", partial_prefills, (1, 4096)),
        long_prefill_token_threshold=reader.integer("long_prefill_token_threshold", 0, (0, 1 << 30))
        or max_model_len * 4 // 100,
        enable_logprob=reader.switch("enable_logprob", default=True),
        max_logprobs=reader.integer("max_logprobs", 20, (-1, 1 << 30)),
        logprobs_mode=reader.choice("logprobs_mode", LOGPROBS_MODES, RAW_LOGPROBS),
        kv_cache_dtype=_kv_cache_dtype(reader, config),
        enable_prefix_caching=reader.switch("enable_prefix_caching", default=True),
        gpu_memory_utilization=_utilization(reader),
        num_gpu_blocks_override=reader.integer("num_gpu_blocks_override", 0, (1, 1 << 30)) or None,
        block_size=reader.integer("block_size", 64, (1, 4096)),
        threads=reader.integer("threads", usable_cores(), (1, 1024)),
        tensor_parallel_size=shard.size,
        enable_expert_parallel=shard.is_expert_parallel,
        ips=reader.text("ips"),
        engine_worker_queue_port=_meeting_port(reader),
        load_choices=load_choices,
        chat_template=reader.text("chat_template"),
        weight_cache=_weight_cache(reader),
        served_model_name=reader.text("served_model_name") or directory.name,
        notices=tuple(notices),
    )


def model_directory(parameters: Mapping[str, str]) -> Path:
    """Return the directory of the checkpoint; raises StartError if it is not given."""
    if not parameters.get("model"):
        raise StartError("parameter model is missing; give the directory of a checkpoint")
    return Path(parameters["model"])


def _max_model_len(reader: _Reader, config: ModelConfig, notices: list[str]) -> int:
    limit = config.max_position_embeddings
    asked = reader.integer("max_model_len", min(2048, limit), (2, 1 << 30))
    if asked > limit:
        notices.append(f"max_model_len {asked} is lowered to the model's max_position_embeddings {limit}")
    return min(asked, limit)


def _max_waiting_time(reader: _Reader) -> float | None:
    value = reader.number("max_waiting_time", -1.0, float)
    if not (value == -1 or 0 < value < float("inf")):
        raise StartError(f"max_waiting_time is {value}; it must be above 0, or -1 for no limit")
    return None if value == -1 else value


def _quantization(reader: _Reader, config: ModelConfig, notices: list[str], *, is_dummy: bool) -> str | None:
    asked = reader.text("quantization").lower()
    asked = "" if asked in ("none", "bf16", "bfloat16") else asked
    if asked and asked not in QUANTIZATIONS:
        raise StartError(f"quantization is {asked!r}; known for this model: {', '.join(QUANTIZATIONS)}")
    if config.quantization_config is not None:
        stored = config.quantization_config.quantization
        if asked not in ("", stored):
            notices.append(f"quantization {asked} is ignored: config.json says that the weights are {stored}")
        return stored
    if asked in ("wint4", "w4a8") and config.moe is None:
        notices.append(f"quantization {asked} quantizes experts; this dense model has none and uses wint8")
        return "wint8"
    if asked == "w4a8" and not is_dummy:
        raise StartError(
            "quantization w4a8 needs scales of activations, and this checkpoint has none; make one that has by "
            "ernie-triton quantize --quantization w4a8, or choose wint4"
        )
    return asked or None


def _kv_cache_dtype(reader: _Reader, config: ModelConfig) -> str:
    asked = reader.choice("kv_cache_dtype", KV_CACHE_DTYPES, "auto")
    stored = config.quantization_config
    return "int8" if stored is not None and stored.has_cache_scales else asked


def _activation_dtype(
    reader: _Reader, dtype: str, quantization: str | None, notices: list[str]
) -> ActivationType:
    known = [each.value for each in ActivationType]
    activation = ActivationType(reader.choice("activation_dtype", known, DEFAULT_ACTIVATION.value))
    check_activation_setting(activation, dtype, quantization)
    if quantization is None and reader.text("activation_dtype") and activation.value in ACTIVATION_LEVELS:
        notices.append(f"activation_dtype {activation.value} is for quantized weights; these see float32")
    return activation


def _weight_cache(reader: _Reader) -> Path | None:
    asked = reader.text("weight_cache")
    if asked.lower() == "off":
        return None
    if asked:
        return Path(asked).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ernie-triton" / "weights"


def _utilization(reader: _Reader) -> float:
    value = reader.number("gpu_memory_utilization", 0.9, float)
    if not 0 < value <= 1:
        raise StartError(f"gpu_memory_utilization is {value}; it must be above 0 and at most 1")
    return value


def _shard(reader: _Reader, config: ModelConfig, quantization: str | None) -> Shard:
    size = reader.integer("tensor_parallel_size", 1, (1, MAX_RANKS))
    shard = Shard(0, size, reader.switch("enable_expert_parallel", default=False))
    check_split(config, shard, expert_block(config.quantization_config, quantization))
    return shard


def _meeting_port(reader: _Reader) -> int:
    """Return the first of the ports; FastDeploy takes one for each of several engines, and 0 for any."""
    first = reader.text("engine_worker_queue_port").partition(",")[0]
    port = _Reader({"engine_worker_queue_port": first}).integer("engine_worker_queue_port", 0, (0, 65535))
    return port or DEFAULT_MEETING_PORT


class _Reader:
    """Typed values out of a dictionary of strings; an empty string counts as absent."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._parameters = parameters

    def text(self, name: str) -> str:
        return self._parameters.get(name, "").strip()

    def choice(self, name: str, known: tuple[str, ...] | list[str], default: str) -> str:
        value = self.text(name).lower() or default
        if value not in known:
            raise StartError(f"{name} is {value!r}; known: {', '.join(known)}")
        return value

    def switch(self, name: str, *, default: bool) -> bool:
        return self.choice(name, ("true", "false"), str(default).lower()) == "true"

    def integer(self, name: str, default: int, limits: tuple[int, int]) -> int:
        """Return an integer in ``limits``; the default is not checked."""
        value = self.number(name, default, int)
        low, high = limits
        if self.text(name) and not low <= value <= high:
            raise StartError(f"{name} is {value}; it must be in [{low}, {high}]")
        return value

    def number(self, name: str, default: _T, kind: Callable[[str], _T]) -> _T:
        value = self.text(name)
        if not value:
            return default
        try:
            return kind(value)
        except ValueError:
            expected = "an integer" if kind is int else "a number"
            raise StartError(f"{name} is {value!r}; it must be {expected}") from None
