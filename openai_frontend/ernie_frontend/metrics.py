"""Prometheus metrics of this frontend, under FastDeploy's names.

Each of several workers writes files in ``PROMETHEUS_MULTIPROC_DIR``, which the supervisor creates before it
starts them, and any worker answers with the sums. The files are memory-mapped: on a full disk a write to them
ends the process with SIGBUS, so their space is allocated in advance.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from ernie_wire.status import Health, Stats

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own
_PREFIX = "fastdeploy:"
# FastDeploy's buckets, extended upwards for CPUs.
_FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40, 80)
_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_REQUEST_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_HTTP_S = (0.005, 0.025, 0.1, 0.3, 1, 2.5, 5, 10, 30, 60, 120, 480, 1920, 7680)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 33792, 131072)
_FILES = {"counter": 128 << 10, "histogram": 512 << 10}
"""Sizes of a worker's files by prometheus_client's names, several times what all series take."""

disable_created_metrics()  # type: ignore[no-untyped-call] # an unused line for each series


def reserve_files(directory: Path, workers: int) -> None:
    """Allocate the files of ``workers`` workers.

    Raises:
        OSError: the disk has no space for them.
    """
    for kind, size in _FILES.items():
        for number in range(workers):
            with (directory / f"{kind}_free{number}.db").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)


def take_files(directory: Path) -> None:
    """Take over files without a living owner, so the counts of a worker that died go on."""
    for kind in _FILES:
        for file in directory.glob(f"{kind}_*.db"):
            owner = file.stem.partition("_")[2]
            if not Path("/proc", owner).exists() and _is_renamed(
                file, file.with_name(f"{kind}_{os.getpid()}.db")
            ):
                break


def _is_renamed(file: Path, to: Path) -> bool:
    try:
        file.rename(to)
    except FileNotFoundError:  # another worker was faster
        return False
    return True


class Metrics:
    """The counters and histograms of one process; make one in a process."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(f"{_PREFIX}requests_number", "generation requests", registry=registry)
        self._successes = Counter(f"{_PREFIX}request_success", "those answered to the end", registry=registry)
        self._prompt = Counter(f"{_PREFIX}prompt_tokens", "tokens of their prompts", registry=registry)
        self._generated = Counter(f"{_PREFIX}generation_tokens", "tokens of their answers", registry=registry)
        self._drafts = Counter(f"{_PREFIX}spec_decode_num_draft_tokens", "guessed tokens", registry=registry)
        self._accepted = Counter(f"{_PREFIX}spec_decode_num_accepted_tokens", "right ones", registry=registry)
        self._first_token = self._histogram("time_to_first_token_seconds", "of streams", _FIRST_TOKEN_S)
        self._per_token = self._histogram("time_per_output_token_seconds", "after the first", _TOKEN_S)
        self._latency = self._histogram("e2e_request_latency_seconds", "to the end of the answer", _REQUEST_S)
        self._prompt_size = self._histogram("request_prompt_tokens", "tokens of the prompts", _TOKENS)
        self._answer_size = self._histogram("request_generation_tokens", "tokens of the answers", _TOKENS)
        labels = ("method", "path", "status_code")
        self._http = Counter("http_requests", "requests by how they ended", labels, registry=registry)
        self._http_duration = Histogram(
            "http_request_duration_seconds", "to the end", labels, buckets=_HTTP_S, registry=registry
        )

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{_PREFIX}{name}", meaning, buckets=buckets, registry=self._registry)

    def count_http(self, method: str, path: str, status: int, duration_s: float) -> None:
        """Count a finished request under its status."""
        self._http.labels(method, path, str(status)).inc()
        self._http_duration.labels(method, path, str(status)).observe(duration_s)

    def count_generation(
        self,
        *,
        is_success: bool,
        num_input_tokens: int,
        num_output_tokens: int,
        num_accepted_drafts: int,
        num_rejected_drafts: int,
        duration_s: float,
        first_token_s: float | None,
    ) -> None:
        """Count a finished generation request.

        Args:
            is_success: its answer is complete.
            num_input_tokens: of its prompts, as in its usage.
            num_output_tokens: of its answers, as in its usage.
            num_accepted_drafts: tokens guessed rightly, as in its usage.
            num_rejected_drafts: tokens guessed wrongly.
            duration_s: from its arrival to its end.
            first_token_s: from its arrival to its first token; None if it did not stream.
        """
        self._requests.inc()
        self._prompt.inc(num_input_tokens)
        self._generated.inc(num_output_tokens)
        self._drafts.inc(num_accepted_drafts + num_rejected_drafts)
        self._accepted.inc(num_accepted_drafts)
        if first_token_s is not None:
            self._first_token.observe(first_token_s)
            if num_output_tokens > 1:
                self._per_token.observe((duration_s - first_token_s) / (num_output_tokens - 1))
        if is_success:
            self._successes.inc()
            self._latency.observe(duration_s)
            self._prompt_size.observe(num_input_tokens)
            self._answer_size.observe(num_output_tokens)

    def to_text(self, health: Health | None) -> bytes:
        """Return all metrics in Prometheus' text format.

        Args:
            health: of the engine; None leaves its gauges out.
        """
        registry = self._registry
        if DIRECTORY_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        text = generate_latest(registry)
        return text if health is None else text + generate_latest(_engine_gauges(health))


def _engine_gauges(stats: Stats) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_EngineGauges(stats))
    return registry


class _EngineGauges(Collector):
    """The engine's gauges, collected on every scrape: a ``Gauge`` would keep them in a file."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges."""
        stats = self._stats
        total, free = stats.total_blocks, stats.free_blocks
        queries, hits = stats.prefix_cache_queries, stats.prefix_cache_hits
        for name, meaning, value in (
            ("num_requests_running", "requests in the engine's batch", stats.running),
            ("num_requests_waiting", "requests in the engine's queue", stats.waiting),
            ("max_gpu_block_num", "blocks of the KV cache", total),
            ("free_gpu_block_num", "of these, free", free),
            ("gpu_cache_usage_perc", "part of the KV cache in use, 0 to 1", 1 - free / total if total else 0),
            (
                "hit_token_rate",
                "part of the prompt tokens found in the prefix cache",
                hits / queries if queries else 0,
            ),
        ):
            yield GaugeMetricFamily(f"{_PREFIX}{name}", meaning, value)
