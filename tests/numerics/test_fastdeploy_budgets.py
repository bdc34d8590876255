"""What a step on ``FastDeployOps`` costs a card: copies, waits and launches, counted on the stand-in."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.models.load import load_model
from ernie_backend.parallel.worker import largest_step
from ernie_backend.request.step_plan import ScheduledChunk, SchedulePlan
from ernie_backend.runner.inputs import build_batch
from ernie_backend.runner.model_runner import ModelRunner
from ernie_backend.settings.engine_settings import EngineSettings, LoadSettings
from ernie_backend.weights.sharding import kv_heads_of, shard_of, vocabulary_of
from ernie_kernels.api import ELSEWHERE, Batch, CacheSpec
from ernie_kernels.communicator import SingleRank
from ernie_kernels.fastdeploy.library import Lineage
from ernie_kernels.formats import ActivationType
from ernie_kernels.sampling import (
    GREEDY,
    HeadOutput,
    SamplingFilters,
    TokenChoices,
    choose_tokens,
    sampling_batch,
)
from fakes.paddle_bfloat16 import Counts, counted_copies
from numerics.fastdeploy_ops import fastdeploy_ops
from numerics.generation import MAX_POSITIONS, generate, load
from numerics.golden import checkpoint, golden_cases, golden_rows
from numerics.test_fastdeploy_step import batch_of
from numerics.test_paddle_kl3_audit import audited, kernels_in, violations

BFLOAT16 = ActivationType.BFLOAT16
LAYERS, MOST_LAUNCHES, OTHER_LAUNCHES, CHOICE_LAUNCHES = 6, 20, 8, 110
"""Of moe300b; launches of a layer with experts; of a step's embedding, first norm and head; of these where the
device also chooses a greedy and a random token."""
VIEWS = {"reshape", "slice", "split", "split_with_num", "transpose", "squeeze", "unsqueeze"}


class FirstOfTwo(SingleRank[Any]):
    """The first of two ranks whose other one answers nothing."""

    size = 2


def counting(ops: Any) -> list[Batch]:
    """The batches that are uploaded from now on."""
    batches: list[Batch] = []
    upload = ops.upload

    def kept(batch: Batch) -> Any:
        batches.append(batch)
        return upload(batch)

    ops.upload = kept
    return batches


@pytest.mark.parametrize(("family", "quantization"), [("moe", "wint4"), ("moe300b", None)])
def test_a_step_is_one_copy_each_way(family: str, quantization: str | None) -> None:
    """And no layer waits for the device."""
    with fastdeploy_ops(Lineage.V2_4) as ops, counted_copies() as counts:
        model = load(checkpoint(family), ops, "bfloat16", quantization, BFLOAT16)
        batches, before = counting(ops), counts.uploads
        generate(model, ops, [row.prompt for row in golden_rows(family)], num_tokens=3, chunk=7)
    assert len(batches) > 3
    assert (counts.uploads - before, counts.downloads) == (len(batches), len(batches))


def test_a_step_of_a_rank_is_one_copy_each_way() -> None:
    """Though the other rank has some of its embeddings."""
    directory, prompt = checkpoint("moe_tp"), golden_rows("moe_tp")[3].prompt
    config = ModelConfig.from_directory(directory)
    shard = shard_of(config, 0, 2, is_expert_parallel=False)
    vocabulary, heads = vocabulary_of(config.vocab_size, shard), len(kv_heads_of(config, shard))
    steps = [(prompt[:7], 0), (prompt[7:], 7), (prompt[:1], len(prompt))]
    with fastdeploy_ops(Lineage.DEVELOP, communicator=FirstOfTwo()) as ops, counted_copies() as counts:
        how = LoadSettings("bfloat16", "wint8", BFLOAT16, MAX_POSITIONS)
        model = load_model(directory, config, ops, how, shard)
        spec = CacheSpec(MAX_POSITIONS // 4, 4, heads, config.head_dim, "bfloat16")
        runner = ModelRunner(
            model, ops, [ops.allocate_cache(spec) for _ in range(config.num_layers)], vocabulary
        )
        batches, before = counting(ops), counts.uploads
        for tokens, cached in steps:
            chunk = ScheduledChunk("", tuple(tokens), cached, tuple(range(spec.num_blocks)), num_sampled=1)
            runner.compute(build_batch(SchedulePlan((chunk,))))
    assert any((batch.token_ids == ELSEWHERE).any() for batch in batches)
    assert (counts.uploads - before, counts.downloads) == (len(steps), len(steps))


def test_a_step_with_media_is_one_copy_each_way() -> None:
    """Beside the embeddings, which an encoder leaves on the device; two banks of experts share the copy."""
    prompts = [case.prompt for case in golden_cases("vl_moe").values()][:3]
    with fastdeploy_ops(Lineage.DEVELOP) as ops, counted_copies() as counts:
        model = load(checkpoint("vl_moe"), ops, "bfloat16", "wint8", BFLOAT16)
        batches, before = counting(ops), counts.uploads
        generate(model, ops, prompts, num_tokens=3, chunk=20)
    with_media = sum(batch.media_rows is not None for batch in batches)
    assert 0 < with_media < len(batches)
    assert any(batch.vision_rows is not None for batch in batches)
    assert (counts.uploads - before, counts.downloads) == (len(batches) + with_media, len(batches))


@pytest.mark.parametrize("family", ["dense", "vl_moe"])
def test_the_profile_step_of_a_start_runs(family: str) -> None:
    """It is the largest: as many sequences as there may be, a prompt in the rest, all sampled on the device."""
    settings = EngineSettings(checkpoint(family)).replaced(
        max_model_len=MAX_POSITIONS, max_num_seqs=5, max_num_batched_tokens=30, block_size=4
    )
    with fastdeploy_ops(Lineage.V2_4) as ops, counted_copies() as counts:
        model = load(checkpoint(family), ops, "bfloat16", None, BFLOAT16)
        plan, blocks = largest_step(settings)
        spec = CacheSpec(blocks, 4, model.config.num_kv_heads, model.config.head_dim, "bfloat16")
        caches = [ops.allocate_cache(spec) for _ in range(model.config.num_layers)]
        sampling = sampling_batch([(SamplingFilters(top_p=0.8), 0.5)] * 5)
        choices = TokenChoices(plan.sampled_places, sampling, model.config.vocab_size)
        found = ModelRunner(model, ops, caches).run(plan, choices)
    assert (len(found.tokens), len(found.logits), counts.downloads) == (5, 0, 1)
    assert plan.num_tokens == 30


KINDS = (GREEDY, SamplingFilters(0.8, top_k=20, top_p=0.9), None, SamplingFilters(1.2, min_p=0.05))
"""How each row of a mixed step is sampled; None: on the host."""


def test_only_tokens_cross_where_the_device_chooses() -> None:
    """Still one copy each way, in which a row takes one number, or V if the host needs them."""
    prompts = [row.prompt for row in golden_rows("dense")][:4]
    batch = batch_of([len(each) for each in prompts], [0] * 4, block_size=4)
    tokens, last = np.concatenate(prompts).astype(np.int32), batch.query_starts[1:] - 1
    batch = replace(batch, token_ids=tokens, logit_rows=last)
    with fastdeploy_ops(Lineage.V2_4) as ops:
        model = load(checkpoint("dense"), ops, "bfloat16", "wint8", BFLOAT16)
        spec = CacheSpec(64, 4, model.config.num_kv_heads, model.config.head_dim, "bfloat16")
        caches = [ops.allocate_cache(spec) for _ in range(model.config.num_layers)]
        vocab_size = model.config.vocab_size

        def output(kinds: tuple[SamplingFilters | None, ...]) -> tuple[HeadOutput, Counts]:
            places = np.array([row for row, kind in enumerate(kinds) if kind is not None], np.int32)
            sampling = sampling_batch((kind, 0.6) for kind in kinds if kind is not None)
            choices = TokenChoices(places, sampling, vocab_size)
            with counted_copies() as counts:
                return model.forward(ops.upload(replace(batch, choices=choices)), caches), counts

        logits, of_host = output((None,) * 4)
        mixed, of_both = output(KINDS)
        chosen, of_device = output(tuple(kind or GREEDY for kind in KINDS))
    sampling = sampling_batch((kind, 0.6) for kind in KINDS if kind is not None)
    expected = choose_tokens(logits.logits[[0, 1, 3]], sampling).tolist()
    assert mixed.tokens.tolist() == expected
    np.testing.assert_array_equal(mixed.logits, logits.logits[2:3])
    assert np.delete(chosen.tokens, 2).tolist() == expected
    for counts, values in ((of_host, 4 * vocab_size), (of_both, vocab_size + 3), (of_device, 4)):
        assert (counts.uploads, counts.downloads, counts.downloaded_values) == (1, 1, values)


@pytest.fixture(scope="module")
def log() -> str:
    return audited(str(Path(__file__).parent / "fastdeploy_launches_program.py"))


def without_vendors(log: str) -> str:
    """A log without what the stand-in's kernels do on the host."""
    return re.sub(r"mark: kernel \w+ begins\n.*?mark: kernel ends\n", "", log, flags=re.DOTALL)


def test_kernels_of_paddle_between_those_of_fastdeploy_are_listed(log: str) -> None:
    """Rotary tables, media and two banks of experts included; none would run on the CPU."""
    kernels = kernels_in(without_vendors(log))
    assert kernels["scatter", "float32"] >= 3, "no rotary tables"
    assert violations(kernels) == []


def test_a_layer_is_few_launches(log: str) -> None:
    """Kernels that Paddle logs, and those of FastDeploy; views are no launch."""
    steps = re.findall(r"mark: step begins\n(.*?)mark: step ends", log, re.DOTALL)
    for step, others_allowed in zip(steps, (OTHER_LAUNCHES, OTHER_LAUNCHES, CHOICE_LAUNCHES), strict=True):
        own = without_vendors(step)
        vendors = len(re.findall(r"mark: kernel \w+ begins", step))
        others = re.findall(r"^I(?! mock).*\] (\w+) API kernel key", own, re.MULTILINE)
        launches = vendors + sum(name not in VIEWS for name in others)
        assert vendors > 20, "the program was not seen"
        assert launches <= LAYERS * MOST_LAUNCHES + others_allowed, Counter(others)
