"""One rank of a model on Paddle's CPU place.

    python -m numerics.rank_program FAMILY LAYOUT RANK SIZE MASTER EP

Every rank prints, as JSON, the greedy tokens after the goldens' prompts, then random ones for the last step,
and what the definition chooses of its logits there.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.models.load import load_model
from ernie_backend.request.step_plan import ScheduledChunk, SchedulePlan
from ernie_backend.runner.model_runner import ModelRunner
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_backend.weights.sharding import kv_heads_of, shard_of, vocabulary_of
from ernie_kernels.api import CacheSpec
from ernie_kernels.communicator import ProcessGroupConfig
from ernie_kernels.formats import ActivationType
from ernie_kernels.paddle import PaddleOps
from ernie_kernels.paddle.process_group import join_device_group
from ernie_kernels.sampling import GREEDY, SamplingFilters, TokenChoices, choose_tokens, sampling_batch
from numerics.golden import checkpoint, golden_rows

BLOCK_SIZE = 8
MAX_POSITIONS = 64
FILTERS = (SamplingFilters(), SamplingFilters(1.5, top_k=9, top_p=0.9), SamplingFilters(3.0, min_p=0.01))
NUM_DRAWS = 9


def main(family: str, layout: str, rank: int, size: int, master: str, is_expert_parallel: bool) -> None:
    ops = PaddleOps("cpu", join_device_group(ProcessGroupConfig(rank, size, master, "127.0.0.1"), "cpu"))
    config = ModelConfig.from_directory(checkpoint(family, layout))
    shard = shard_of(config, rank, size, is_expert_parallel=is_expert_parallel)
    how = LoadSettings("float32", None, ActivationType.FLOAT32, MAX_POSITIONS)
    model = load_model(checkpoint(family, layout), config, ops, how, shard)
    rows = golden_rows(family)
    blocks = MAX_POSITIONS // BLOCK_SIZE
    spec = CacheSpec(
        blocks * len(rows), BLOCK_SIZE, len(kv_heads_of(config, shard)), config.head_dim, "float32"
    )
    caches = [ops.allocate_cache(spec) for _ in range(config.num_layers)]
    runner = ModelRunner(model, ops, caches, vocabulary_of(config.vocab_size, shard))
    tables = [tuple(range(row * blocks, (row + 1) * blocks)) for row in range(len(rows))]
    answers: list[list[int]] = [[] for _ in rows]
    pieces = [tuple(row.prompt) for row in rows]
    starts = [0] * len(rows)
    greedy = sampling_batch([(GREEDY, 0.0)] * len(rows))
    choices = TokenChoices(np.arange(len(rows), dtype=np.int32), greedy, config.vocab_size)
    while len(answers[0]) < len(rows[0].greedy):
        chunks = tuple(
            ScheduledChunk("", piece, start, table, num_sampled=1)
            for piece, start, table in zip(pieces, starts, tables, strict=True)
        )
        plan = SchedulePlan(chunks)
        tokens = runner.run(plan, choices).tokens.tolist()
        starts = [start + len(piece) for start, piece in zip(starts, pieces, strict=True)]
        pieces = [(token,) for token in tokens]
        for answer, token in zip(answers, tokens, strict=True):
            answer.append(token)
    logits = runner.run(plan).logits[:, : config.vocab_size]
    random, expected = [], []
    for draw in range(NUM_DRAWS):
        sampling = sampling_batch((FILTERS[draw % len(FILTERS)], (draw + 0.5) / NUM_DRAWS) for _ in rows)
        random.append(runner.run(plan, replace(choices, sampling=sampling)).tokens.tolist())
        expected.append(choose_tokens(logits, sampling).tolist())
    sys.stdout.write(json.dumps([answers, random, expected]))


if __name__ == "__main__":
    _, name, form, own, count, where, experts = sys.argv
    main(name, form, int(own), int(count), where, experts == "True")
