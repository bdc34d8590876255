"""A rank's seat: its part, its threads, its card. This module must not know processes or sockets."""

from __future__ import annotations

from collections.abc import Callable

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.parallel.layout import Layout, read_layout, read_machines
from ernie_backend.settings import EngineSettings
from ernie_backend.weights.sharding import shard_of
from ernie_backend.worker import Seat
from ernie_kernels.communicator import CollectiveCounter, ProcessGroupConfig


def engine_layout(settings: EngineSettings) -> Layout:
    """Return the layout that the settings and the environment describe; raises what ``read_layout`` does."""
    return read_layout(settings.tensor_parallel_size, settings.ips, settings.engine_worker_queue_port)


def count_machines(settings: EngineSettings) -> int:
    """Return how many machines share the model; this one need not be among them."""
    return max(1, len(read_machines(settings.tensor_parallel_size, settings.ips)[0]))


def threads_of_rank(settings: EngineSettings, layout: Layout) -> int:
    """Return a rank's share of its machine's threads."""
    return max(1, settings.threads // layout.ranks_per_host)


def group_seat(
    settings: EngineSettings,
    config: ModelConfig,
    layout: Layout,
    rank: int,
    master: str,
    collectives: CollectiveCounter,
    barrier: Callable[[], None],
) -> Seat:
    """Return the seat of a rank; the ranks of a machine share its threads, and take its cards in order.

    For ``master``, ``collectives`` and ``barrier`` see ``ProcessGroupConfig``.
    """
    host, index = divmod(rank, layout.ranks_per_host)
    return Seat(
        shard=shard_of(config, rank, layout.size, is_expert_parallel=settings.enable_expert_parallel),
        threads=threads_of_rank(settings, layout),
        group=ProcessGroupConfig(rank, layout.size, master, layout.hosts[host], index, collectives, barrier),
    )
