"""One rank of a model on ``FastDeployOps`` over the stand-in of FastDeploy's ops; sums are bfloat16, by gloo.

    python -m numerics.fastdeploy_rank_program FAMILY QUANTIZATION RANK SIZE MASTER

Rank 0 prints the logits after the goldens' prompts, and after each of their first tokens, as JSON.
"""

from __future__ import annotations

import json
import sys

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.models.load import load_model
from ernie_backend.request.step_plan import ScheduledChunk, SchedulePlan
from ernie_backend.runner.inputs import build_batch
from ernie_backend.runner.model_runner import ModelRunner
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_backend.weights.sharding import kv_heads_of, shard_of, vocabulary_of
from ernie_kernels.api import CacheSpec
from ernie_kernels.communicator import ProcessGroupConfig
from ernie_kernels.fastdeploy.library import Lineage
from ernie_kernels.formats import ActivationType
from ernie_kernels.paddle.process_group import join_device_group
from numerics.fastdeploy_ops import fastdeploy_ops
from numerics.golden import checkpoint, golden_rows

BLOCK_SIZE, BLOCKS = 8, 8
NUM_TOKENS = 2


def main(family: str, quantization: str, rank: int, size: int, master: str) -> None:
    group = join_device_group(ProcessGroupConfig(rank, size, master, "127.0.0.1"), "cpu")
    config = ModelConfig.from_directory(checkpoint(family))
    shard = shard_of(config, rank, size, is_expert_parallel=False)
    with fastdeploy_ops(Lineage.V2_4, communicator=group) as ops:
        how = LoadSettings("bfloat16", quantization, ActivationType.BFLOAT16, BLOCKS * BLOCK_SIZE)
        model = load_model(checkpoint(family), config, ops, how, shard)
        rows = golden_rows(family)
        heads = len(kv_heads_of(config, shard))
        spec = CacheSpec(BLOCKS * len(rows), BLOCK_SIZE, heads, config.head_dim, "bfloat16")
        caches = [ops.allocate_cache(spec) for _ in range(config.num_layers)]
        runner = ModelRunner(model, ops, caches, vocabulary_of(config.vocab_size, shard))
        logits = []
        for step in range(NUM_TOKENS + 1):
            chunks = tuple(
                ScheduledChunk(
                    "",
                    tuple(row.prompt) if not step else (row.greedy[step - 1],),
                    len(row.prompt) + step - 1 if step else 0,
                    tuple(range(index * BLOCKS, (index + 1) * BLOCKS)),
                    num_sampled=1,
                )
                for index, row in enumerate(rows)
            )
            logits.append(runner.compute(build_batch(SchedulePlan(chunks))).logits.tolist())
    if rank == 0:
        sys.stdout.write(json.dumps(logits))


if __name__ == "__main__":
    _, name, form, own, count, where = sys.argv
    main(name, form, int(own), int(count), where)
