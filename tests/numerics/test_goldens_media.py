"""The goldens of decoders with images and videos, by every backend and in every layout.

The golden's embeddings of media stand in for those of a tower. Hidden states, logits, 32 greedy tokens; alone,
in a ragged batch, and cut inside of an image; by two ranks.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.models.load import load_model
from ernie_backend.runner.inputs import local_tokens
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_backend.weights.sharding import Shard, kv_heads_of, shard_of, vocabulary_of
from ernie_kernels.api import Batch, CacheSpec
from ernie_kernels.cpu import CpuOps
from ernie_kernels.formats import ActivationType
from numerics.backends import BACKENDS, INTEGER_BACKENDS, make_ops
from numerics.generation import MAX_POSITIONS, assert_steps_change_no_bit, generate, load, prompt_logits
from numerics.golden import (
    HIDDEN_TOLERANCE,
    LAYOUTS,
    LOGITS_TOLERANCE,
    MEDIA_FAMILIES,
    assert_rows_agree,
    checkpoint,
    golden_cases,
    max_difference,
)
from numerics.ops_cases import ISAS, Floats, cpu_ops
from numerics.oracle import Oracle
from numerics.recording import RecordingOps

FLOAT32 = ActivationType.FLOAT32

backends = pytest.mark.parametrize("backend", BACKENDS)
families = pytest.mark.parametrize(("family", "layout"), MEDIA_FAMILIES)


@backends
@families
@pytest.mark.parametrize("chunk", [None, 5])
def test_all_cases_together(backend: str, family: str, layout: str, chunk: int | None) -> None:
    ops, cases = make_ops(backend), golden_cases(family).values()
    model = load(checkpoint(family, layout), ops)
    generated, logits = generate(model, ops, [case.prompt for case in cases], 32, chunk)
    assert max_difference(logits, np.stack([case.logits for case in cases])) <= LOGITS_TOLERANCE
    assert generated == [case.greedy for case in cases]


@backends
@families
def test_each_case_alone(backend: str, family: str, layout: str) -> None:
    ops = RecordingOps(make_ops(backend))
    model = load(checkpoint(family, layout), ops)
    per_step = 1 + 2 * model.config.num_layers
    for case in golden_cases(family).values():
        ops.residuals.clear()
        ops.normed.clear()
        logits = prompt_logits(model, ops, case.prompt)
        assert max_difference(logits[-1], case.logits) <= LOGITS_TOLERANCE
        if case.hidden is None or case.final_norm is None:
            continue
        for index, hidden in enumerate(case.hidden):
            found = np.concatenate(ops.residuals[2 * index :: per_step])
            assert max_difference(found, hidden) <= HIDDEN_TOLERANCE, f"after {index} layers"
        assert max_difference(ops.normed[-1], case.final_norm) <= HIDDEN_TOLERANCE


def test_which_tokens_go_to_the_experts_of_media_is_the_batches_choice() -> None:
    ops = cpu_ops(ISAS[0])
    model = load(checkpoint("vl_moe"), ops)
    for case in golden_cases("vl_moe").values():
        if case.placeholder_logits is not None:
            prompt = replace(case.prompt, is_vision=case.prompt.is_media)
            logits = prompt_logits(model, ops, prompt)
            assert max_difference(logits[-1], case.placeholder_logits) <= LOGITS_TOLERANCE


@cache
def oracle_of(family: str, quantization: str | None, activation: str | None = None) -> Oracle:
    return Oracle.read(checkpoint(family), quantization, activation)


@pytest.mark.parametrize("family", ["vl_moe", "paddleocr_vl"])
def test_the_oracle_itself(family: str) -> None:
    for case in golden_cases(family).values():
        found = oracle_of(family, None).media_logits(case.prompt)[-1]
        assert max_difference(found, case.logits) <= LOGITS_TOLERANCE


@backends
@pytest.mark.parametrize(
    ("family", "quantization"), [("vl_moe", "wint8"), ("vl_moe", "wint4"), ("paddleocr_vl", "wint8")]
)
def test_quantized_weights(backend: str, family: str, quantization: str) -> None:
    ops = make_ops(backend)
    model = load(checkpoint(family), ops, quantization=quantization)
    for name, case in golden_cases(family).items():
        expected = expected_logits(family, quantization, name)
        assert max_difference(prompt_logits(model, ops, case.prompt), expected) <= LOGITS_TOLERANCE


@cache
def expected_logits(family: str, quantization: str, name: str) -> Floats:
    return oracle_of(family, quantization).media_logits(golden_cases(family)[name].prompt)


@pytest.mark.parametrize("quantization", ["wint8", "wint4"])
def test_the_paddle_layout_is_quantized_alike(quantization: str) -> None:
    ops = cpu_ops(ISAS[-1])
    prompts = [case.prompt for case in golden_cases("vl_moe").values()]
    models = [load(checkpoint("vl_moe", layout), ops, quantization=quantization) for layout in LAYOUTS]
    found, expected = (generate(model, ops, prompts, 1)[1] for model in models)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("backend", INTEGER_BACKENDS)
@pytest.mark.parametrize("activation", [ActivationType.INT8, ActivationType.INT16])
def test_experts_of_media_round_their_inputs(backend: str, activation: ActivationType) -> None:
    ops = RecordingOps(make_ops(backend))
    model = load(checkpoint("vl_moe"), ops, quantization="wint4", activation=activation)
    prompt = golden_cases("vl_moe")["image_video"].prompt
    prompt_logits(model, ops, prompt)
    oracle = oracle_of("vl_moe", "wint4", activation.value)
    for layer in range(model.config.num_layers):
        hidden, transformed = ops.products[3 * layer + 2]
        assert_rows_agree(transformed, oracle.transform(layer, hidden, prompt.is_vision))


@dataclass
class ThreadRanks:
    """The communicator of rank ``rank``: a thread for each, over what all put into ``parts``."""

    rank: int
    size: int
    parts: list[Any]
    barrier: Barrier

    def all_reduce(self, x: Any) -> Any:
        return sum(self._exchange(x))

    def all_gather(self, x: Any) -> Any:
        return np.concatenate(self._exchange(x), axis=1)

    def _exchange(self, x: Any) -> list[Any]:
        self.parts[self.rank] = x
        self.barrier.wait(60)
        parts = list(self.parts)
        self.barrier.wait(60)
        return parts


class RankOps:
    """The ops of one rank, for a driver that knows nothing of ranks."""

    def __init__(self, ops: CpuOps, config: ModelConfig, shard: Shard) -> None:
        self._ops, self._config, self._shard = ops, config, shard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def upload(self, batch: Batch) -> Any:
        return self._ops.upload(local_tokens(batch, vocabulary_of(self._config.vocab_size, self._shard)))

    def allocate_cache(self, spec: CacheSpec) -> Any:
        kv_heads = len(kv_heads_of(self._config, self._shard))
        return self._ops.allocate_cache(replace(spec, num_kv_heads=kv_heads))


@pytest.mark.parametrize("is_expert_parallel", [False, True])
@pytest.mark.parametrize(("family", "layout"), [("vl_moe", "paddle"), ("paddleocr_vl", "hf")])
def test_two_ranks(family: str, layout: str, is_expert_parallel: bool) -> None:
    directory, cases = checkpoint(family, layout), golden_cases(family).values()
    config, parts, barrier = ModelConfig.from_directory(directory), [None, None], Barrier(2)
    settings = LoadSettings("float32", None, FLOAT32, MAX_POSITIONS)

    def rank(index: int) -> tuple[list[list[int]], Floats]:
        shard = shard_of(config, index, 2, is_expert_parallel=is_expert_parallel)
        ops = RankOps(CpuOps(1, communicator=ThreadRanks(index, 2, parts, barrier)), config, shard)
        model = load_model(directory, config, ops, settings, shard)
        return generate(model, ops, [case.prompt for case in cases], 32)

    with ThreadPoolExecutor(2) as pool:
        for generated, logits in pool.map(rank, range(2)):
            assert max_difference(logits, np.stack([case.logits for case in cases])) <= LOGITS_TOLERANCE
            assert generated == [case.greedy for case in cases]


@pytest.mark.parametrize("isa", ISAS)
def test_steps_change_no_bit(isa: str) -> None:
    ops, cases = cpu_ops(isa), golden_cases("vl_moe")
    prompts = [cases[name].prompt for name in ("text", "image_video", "image")]
    for dtype, quantization, activation in (
        ("float32", None, FLOAT32),
        ("bfloat16", "wint4", ActivationType.INT8),
    ):
        model = load(checkpoint("vl_moe"), ops, dtype, quantization, activation)
        assert_steps_change_no_bit(model, ops, prompts)
