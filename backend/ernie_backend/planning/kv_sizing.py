"""How many blocks the KV cache gets: a pure function of sizes."""

from __future__ import annotations

from dataclasses import dataclass

from ernie_backend.errors import StartError
from ernie_backend.planning.units import format_bytes


@dataclass(frozen=True)
class KvDemand:
    """What the KV cache should hold.

    Attributes:
        bytes_per_block: of all layers together.
        block_size: tokens of a block.
        max_model_len: tokens of the longest request.
        max_num_seqs: requests in one step.
    """

    bytes_per_block: int
    block_size: int
    max_model_len: int
    max_num_seqs: int

    @property
    def blocks_per_request(self) -> int:
        """Blocks of one request of ``max_model_len`` tokens."""
        return -(-self.max_model_len // self.block_size)


def kv_blocks(demand: KvDemand, budget_bytes: int) -> int:
    """Return how many blocks to allocate: what the budget allows, at most what all requests can use.

    Args:
        demand: what the cache should hold.
        budget_bytes: memory that the cache may take.

    Raises:
        StartError: not even one request of ``max_model_len`` tokens fits.
    """
    affordable = max(0, budget_bytes) // demand.bytes_per_block
    if affordable < demand.blocks_per_request:
        need = demand.blocks_per_request * demand.bytes_per_block
        raise StartError(
            f"the KV cache of one request of max_model_len {demand.max_model_len} needs {format_bytes(need)}, "
            f"{format_bytes(max(0, budget_bytes))} are left after the weights; lower max_model_len "
            f"(at most {affordable * demand.block_size} fits) or raise gpu_memory_utilization"
        )
    return min(affordable, demand.max_num_seqs * demand.blocks_per_request)


def check_blocks(demand: KvDemand, num_blocks: int, budget_bytes: int) -> int:
    """Return a number of blocks that the user chose, if the budget allows it.

    Raises:
        StartError: it does not; a process that takes more memory than there is would be killed later.
    """
    need, have = num_blocks * demand.bytes_per_block, max(0, budget_bytes)
    if need > have:
        raise StartError(
            f"num_gpu_blocks_override {num_blocks} needs {format_bytes(need)}, {format_bytes(have)} are left "
            f"after the weights; lower it (at most {have // demand.bytes_per_block} fits) or raise "
            "gpu_memory_utilization"
        )
    return num_blocks


def check_available(demand: KvDemand, num_blocks: int, available_bytes: int) -> None:
    """Check that memory which was planned with is still there, since it is reserved now and touched later.

    Raises:
        StartError: it is not.
    """
    need = num_blocks * demand.bytes_per_block
    if need > available_bytes:
        raise StartError(
            f"the KV cache of {num_blocks} blocks needs {format_bytes(need)}, and only "
            f"{format_bytes(available_bytes)} are available now, less "
            "than when the start began: another process has taken memory; end it, or start again to plan with "
            "what it leaves"
        )
