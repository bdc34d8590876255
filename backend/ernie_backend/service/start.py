"""Starts an engine: settings, tokenizer, weights, KV cache, one step to warm up.

Every stage writes one log line with its seconds, weights and cache with their bytes too. Checks that are cheap
come first.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.devices.backend import Backend, find_backend
from ernie_backend.devices.host import available_bytes
from ernie_backend.engine.engine import Engine
from ernie_backend.engine.input_processor import InputProcessor
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.media.pool import MediaPool
from ernie_backend.media.processor import MediaProcessor
from ernie_backend.parallel.group import DistributedRunner, GroupObserver
from ernie_backend.parallel.launcher import launch_group
from ernie_backend.parallel.layout import Layout, check_leads, read_layout
from ernie_backend.parallel.worker import Worker
from ernie_backend.planning.engine_plan import check_fits, engine_plan
from ernie_backend.planning.memory_plan import MemoryPlan
from ernie_backend.planning.units import format_bytes
from ernie_backend.request.step_plan import ScheduledChunk, SchedulePlan
from ernie_backend.runner.model_runner import ModelRunner
from ernie_backend.runner.sampler import Sampler
from ernie_backend.service.stages import Stages
from ernie_backend.settings.engine_settings import EngineSettings
from ernie_backend.settings.reader import model_directory, read_settings
from ernie_kernels.api import CacheSpec
from ernie_wire.messages import Ready
from ernie_wire.status import Description, Stage

_MAX_MEDIA_WORKERS = 4
"""Threads that decode and resize, besides those that compute."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartedEngine:
    """An engine that can serve, with what prepares its requests.

    Attributes:
        engine: the engine.
        input_processor: makes its requests of clients'.
        ready: its description.
        max_num_waiting: the limit of its queue.
        media_pool: prepares media; None: the model reads only text.
    """

    engine: Engine
    input_processor: InputProcessor
    ready: Ready
    max_num_waiting: int
    media_pool: MediaPool | None = None


def start_engine(parameters: Mapping[str, str], observer: GroupObserver | None = None) -> StartedEngine:
    """Start the engine that an entry's parameters describe.

    Args:
        parameters: the entry's.
        observer: receives progress and failure of other ranks, if there are any.

    Raises:
        StartError: the engine cannot serve.
    """
    stages = Stages("Python and imports")
    with _logged(stages, "config and tokenizer"):
        checked = _read(parameters)
    settings, input_processor = checked.settings, checked.input_processor
    _log_choices(settings, input_processor)
    for line in checked.notices:
        logger.warning("notice: %s", line)
    runner, spec, sampler = _load(checked, parameters, observer or GroupObserver(), stages)
    with _logged(stages, "warm-up step"):
        runner.run(_warm_up_plan(checked.config))
    enable_prefix_caching = settings.cache.enable_prefix_caching
    blocks = BlockManager(spec.num_blocks, spec.block_size, enable_prefix_caching=enable_prefix_caching)
    engine = Engine(runner, blocks, settings.scheduler, sampler, encoder=runner.encoder)
    description = _description(settings, checked.config, input_processor, checked.backend.name, spec)
    ready = Ready(replace(description, startup=tuple(stages.list)))
    pool = None
    if checked.media is not None and input_processor.media is not None:
        workers = max(1, min(_MAX_MEDIA_WORKERS, settings.threads // 2))
        pool = MediaPool(checked.media, workers, settings.media.processor_cache_bytes)
    return StartedEngine(engine, input_processor, ready, settings.scheduler.max_num_waiting, pool)


@dataclass(frozen=True)
class _Checked:
    """What was read and checked before anything is loaded; ``notices`` are lines for the user."""

    config: ModelConfig
    settings: EngineSettings
    input_processor: InputProcessor
    media: MediaProcessor | None
    backend: Backend
    layout: Layout
    plan: MemoryPlan
    notices: tuple[str, ...]


def _read(parameters: Mapping[str, str]) -> _Checked:
    available = available_bytes()
    directory = model_directory(parameters)
    config = ModelConfig.from_directory(directory)
    settings = read_settings(parameters, config)
    media = MediaProcessor.load(directory, config, settings)
    input_processor = InputProcessor.load(settings, config, _modalities(media))
    backend, notice = find_backend(settings.device)
    layout = read_layout(settings.parallel)
    check_leads(layout)
    host = backend.check_host(layout.ranks_per_host)
    plan = engine_plan(settings, config, backend, available * len(layout.hosts), host.card_bytes)
    check_fits(plan)
    of_media = () if media is None else media.notices
    notices = filter(None, (*settings.notices, notice, layout.notice, *of_media, *host.notices))
    return _Checked(config, settings, input_processor, media, backend, layout, plan, tuple(notices))


def _load(
    checked: _Checked, parameters: Mapping[str, str], observer: GroupObserver, stages: Stages
) -> tuple[ModelRunner | DistributedRunner, CacheSpec, Sampler]:
    """Start the other ranks, load the weights and reserve the KV cache, whose spec of a layer is returned."""
    config, settings, layout = checked.config, checked.settings, checked.layout
    group, process_group = None, None
    if layout.size > 1:
        with _logged(stages, f"{layout.size} ranks"):
            group, process_group = launch_group(settings, parameters, layout, observer)
    name = f"weights on {checked.backend.name}, {layout.threads_per_rank(settings.threads)} threads"
    with _logged(stages, name) as weights:
        with nullcontext() if group is None else group.root_cause_first():
            worker = Worker.load(settings, config, checked.backend, layout, process_group)
        weights.size_bytes = worker.weight_bytes
    with _logged(stages, "KV cache (reserved)") as kv_cache:
        available = available_bytes() // layout.ranks_per_host
        with nullcontext() if group is None else group.root_cause_first():
            num_blocks = worker.affordable_blocks(settings, checked.plan, available)
        if group is not None:
            num_blocks = group.least_blocks(num_blocks)
            group.allocate(num_blocks)
        spec = replace(worker.block_spec(settings), num_blocks=num_blocks)
        model_runner = worker.create_runner(spec, checked.media)
        kv_cache.size_bytes = spec.bytes_per_block * config.num_layers * spec.num_blocks
    tokenizer, logprobs_mode = checked.input_processor.tokenizer, settings.logprobs.logprobs_mode
    sampler = Sampler(checked.backend.token_sampler(worker.ops), tokenizer.vocab_size, logprobs_mode)
    return model_runner if group is None else DistributedRunner(model_runner, group), spec, sampler


def _modalities(media: MediaProcessor | None) -> tuple[str, ...]:
    return ("text",) if media is None else media.modalities


def _log_choices(settings: EngineSettings, input_processor: InputProcessor) -> None:
    answers = input_processor.format
    parsers = (answers.reasoning_parser or "none", answers.tool_call_parser or "none")
    logger.info("start: parsers: %s for thinking, %s for tool calls", *parsers)
    if settings.loading.quantization is not None:
        logger.info("start: activations: %s", settings.loading.activation_dtype.value)
    speculation = settings.scheduler.speculative_config
    if speculation is not None:
        logger.info("start: speculation: %s", json.dumps(speculation.known))


@contextmanager
def _logged(stages: Stages, name: str) -> Iterator[Stage]:
    with stages.stage(name) as stage:
        yield stage
    size = "" if stage.size_bytes is None else f", {format_bytes(stage.size_bytes)}"
    logger.info("start: %s: %.2f s%s", name, stage.seconds, size)


def _warm_up_plan(config: ModelConfig) -> SchedulePlan:
    """Return a step of one token; its content of the first block is never read."""
    return SchedulePlan((ScheduledChunk("warm-up", (config.bos_token_id,), 0, (0,), num_sampled=1),))


def _description(
    settings: EngineSettings, config: ModelConfig, input_processor: InputProcessor, device: str, spec: CacheSpec
) -> Description:
    return Description(
        architecture=config.architecture,
        root=str(settings.model),
        max_model_len=settings.loading.max_model_len,
        max_num_seqs=settings.scheduler.max_num_seqs,
        vocab_size=config.vocab_size,
        longest_token_bytes=input_processor.tokenizer.longest_token_bytes,
        has_tokenizer=isinstance(input_processor.tokenizer, Tokenizer),
        device=device,
        dtype=settings.loading.dtype,
        quantization=settings.loading.quantization,
        activation_dtype=settings.loading.activation_dtype.value,
        kv_cache_dtype=spec.dtype,
        kv_blocks=spec.num_blocks,
        block_size=spec.block_size,
        enable_logprob=settings.logprobs.enable_logprob,
        max_logprobs=settings.logprobs.max_logprobs,
        logprobs_mode=settings.logprobs.logprobs_mode,
        modalities=input_processor.modalities,
        limit_mm_per_prompt={} if input_processor.media is None else input_processor.media.limits,
        reasoning_parser=input_processor.format.reasoning_parser,
        tool_call_parser=input_processor.format.tool_call_parser,
        knows_tools=input_processor.format.knows_tools,
        special_tokens=_special_tokens(input_processor),
        chat_template=input_processor.template.source,
        generation_config=input_processor.defaults.to_json(),
    )


def _special_tokens(input_processor: InputProcessor) -> dict[str, str]:
    """Return the texts of special tokens by name; ``eos_token`` also where only config.json has it."""
    tokenizer, eos_token_ids = input_processor.tokenizer, input_processor.defaults.eos_token_ids
    eos_token = tokenizer.token_bytes(eos_token_ids[0]).decode() if eos_token_ids else ""
    return {**({"eos_token": eos_token} if eos_token else {}), **input_processor.template.special_tokens}
