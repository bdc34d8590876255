"""``FastDeployOps`` over a stand-in of FastDeploy's ops in its three forms, which reads lods, not our batch.

Answers are those of the reference that rounds to bfloat16 between ops; what they may differ in is said in
``test_paddle_bfloat16``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_backend.engine.engine import Engine
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.models.base import Model
from ernie_backend.runner.model_runner import ModelRunner
from ernie_backend.runner.sampler import Sampler
from ernie_backend.selfcheck.models import check_models
from ernie_backend.selfcheck.ops import check_ops
from ernie_backend.selfcheck.probes import check_probes
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_kernels.api import CacheScales, CacheSpec, ExpertBank, MlpWeights, RotarySpec, UnsupportedError
from ernie_kernels.fastdeploy import moe
from ernie_kernels.fastdeploy.library import Lineage
from ernie_kernels.fastdeploy.limits import BLOCK_SIZES
from ernie_kernels.fastdeploy.ops import FastDeployOps
from ernie_kernels.fastdeploy.step import describe_step
from ernie_kernels.formats import (
    ActivationType,
    Bfloat16Weight,
    Float32Weight,
    float32_to_bfloat16,
    quantize_int4,
    quantize_int8,
    quantize_w4a8,
    round_to_bfloat16,
)
from ernie_kernels.paddle import linear
from ernie_kernels.reference import ReferenceOps
from ernie_kernels.routing import RouterWeights
from ernie_kernels.sampling import (
    SamplingFilters,
)
from ernie_wire.messages import Heartbeat
from fakes.fastdeploy.library import fastdeploy_library
from fakes.paddle_bfloat16 import bfloat16, floats
from fakes.sequences import make_request
from numerics.fastdeploy_ops import FastDeployReference, fastdeploy_ops
from numerics.generation import generate, load
from numerics.golden import Floats, checkpoint, golden_rows
from numerics.test_engine_invariance import SHARED, House
from numerics.test_fastdeploy_step import batch_of
from numerics.test_paddle_bfloat16 import assert_same_answers, logits_of
from numerics.test_paddle_ops import normal

BFLOAT16 = ActivationType.BFLOAT16
MODELS = [
    (Lineage.V2_3, "dense", "wint8"),
    (Lineage.V2_3, "moe", "wint4"),
    (Lineage.V2_3, "moe300b", None),
    (Lineage.V2_4, "dense", None),
    (Lineage.V2_4, "moe", None),
    (Lineage.V2_4, "moe_tp", "wint8"),
    (Lineage.DEVELOP, "moe", "wint8"),
    (Lineage.DEVELOP, "moe300b", "wint4"),
    (Lineage.DEVELOP, "moe_tp", None),
    pytest.param(Lineage.V2_3, "moe_tp", "wint8", marks=pytest.mark.full),
    pytest.param(Lineage.V2_4, "moe300b", "wint4", marks=pytest.mark.full),
    pytest.param(Lineage.DEVELOP, "dense", "wint8", marks=pytest.mark.full),
]
lineages = pytest.mark.parametrize("lineage", list(Lineage))


@pytest.fixture
def ops() -> Iterator[FastDeployOps]:
    with fastdeploy_ops(Lineage.V2_4) as made:
        yield made


@pytest.mark.parametrize(("lineage", "family", "quantization"), MODELS)
def test_models(lineage: Lineage, family: str, quantization: str | None) -> None:
    with fastdeploy_ops(lineage) as ops:
        found = logits_of(ops, family, quantization)
    assert_same_answers(found, logits_of(FastDeployReference(), family, quantization))


# Attention over schedules of steps: chunks, first chunks of one token, decoding, any mix of them.

schedules = st.integers(1, 4).flatmap(
    lambda size: st.lists(
        st.lists(st.sampled_from([0, 1, 1, 2, 5]), min_size=size, max_size=size).filter(any),
        min_size=1,
        max_size=4,
    )
)
HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE, BLOCKS_EACH = 4, 2, 8, 3, 7
WIDTH = (HEADS + 2 * KV_HEADS) * HEAD_DIM


def static_scales() -> CacheScales:
    largest = np.full((KV_HEADS, HEAD_DIM), 5 / 127, np.float32)
    return CacheScales(largest, largest)


FORMS = [
    *(
        (lineage, style, is_int8)
        for lineage in Lineage
        for style in ("text", "vl")
        for is_int8 in (False, True)
    ),
    (Lineage.DEVELOP, "ocr", False),
    (Lineage.DEVELOP, "neox", False),
]
"""What ``block_attn`` of a lineage can do, by the models whose rotary embedding it is."""


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), schedules, st.sampled_from(FORMS), st.booleans())
def test_attention(seed: int, schedule: list[list[int]], form: tuple[Lineage, str, bool], drafts: bool) -> None:
    """As the reference over the same cache; rows are found again by their token ids.

    Chunks whose logits are all needed are drafts, which a sequence that decodes may have.
    """
    lineage, style, is_int8 = form
    random = np.random.default_rng(seed)
    blocks = random.permutation(len(schedule[0]) * BLOCKS_EACH).astype(np.int32)
    tables = blocks.reshape(-1, BLOCKS_EACH)
    scales = static_scales() if is_int8 else None
    spec = CacheSpec(tables.size, BLOCK_SIZE, KV_HEADS, HEAD_DIM, "int8" if is_int8 else "bfloat16", scales)
    length, cached = BLOCKS_EACH * BLOCK_SIZE, np.zeros(len(tables), np.int32)
    axes = {"vl": (1, 2, 1, 0), "ocr": (0, 1, 2, 2)}.get(style, ())
    rotary = RotarySpec(HEAD_DIM, length, 10000.0, interleaved=style in ("text", "vl"), axes=axes)
    reference = FastDeployReference()
    with fastdeploy_ops(lineage) as ops:
        table, cache = ops.pack_rotary(rotary), ops.allocate_cache(spec)
        expected_table, expected_cache = reference.pack_rotary(rotary), reference.allocate_cache(spec)
        for step, counts in enumerate(schedule):
            batch = replace(batch_of(counts, cached.tolist()), block_tables=tables)
            if drafts:
                batch = replace(batch, logit_rows=np.arange(sum(counts), dtype=np.int32))
            if axes:  # places of media, which a table of each sequence must hold
                places = random.integers(0, length, (3, sum(counts)), np.int32)
                batch = replace(batch, positions=places)
            qkv = round_to_bfloat16(normal(seed + step, sum(counts), WIDTH))
            expected = reference.attention(qkv, expected_table, expected_cache, batch)
            uploaded = ops.upload(batch)
            order = uploaded.host.token_ids
            found = floats(ops.attention(bfloat16(qkv[order]), table, cache, uploaded))
            np.testing.assert_allclose(found, expected[order], atol=0.1 if is_int8 else 0.03)
            cached += np.array(counts, np.int32)


def test_embeddings_and_logits_come_back_in_the_order_of_the_batch(ops: FastDeployOps) -> None:
    """Prompts come first on the device: a step that decodes and then fills in is turned round, and back."""
    values = normal(0, 30, 8)
    table = ops.pack_linear(Bfloat16Weight(float32_to_bfloat16(values)), BFLOAT16)
    ops.allocate_cache(CacheSpec(20, 4, 1, 8, "bfloat16"))
    batch = batch_of([1, 3], [2, 0])
    batch = replace(batch, token_ids=np.array([7, 1, 2, 3], np.int32), logit_rows=np.array([3, 0], np.int32))
    uploaded = ops.upload(batch)
    hidden = ops.embed(table, uploaded)
    rounded = round_to_bfloat16(values)
    np.testing.assert_array_equal(floats(hidden), rounded[[1, 2, 3, 7]])
    logits = ops.lm_head(hidden, table, uploaded).logits
    np.testing.assert_array_equal(logits.argmax(axis=1), (rounded[[3, 7]] @ rounded.T).argmax(axis=1))


# Experts


@lineages
def test_w4a8_experts(lineage: Lineage) -> None:
    """Static scales and rotated inputs, against the reference's integers."""
    hidden, inner, experts = 64, 128, 4
    router = RouterWeights(normal(1, experts, hidden), np.zeros(experts, np.float32), 2)
    weights = [
        MlpWeights(
            quantize_w4a8(normal(2 + index, 2 * inner, hidden) * 0.1, 4.0 + index),
            quantize_w4a8(normal(20 + index, hidden, inner) * 0.1, 60.0 + index, 128),
        )
        for index in range(experts)
    ]
    x = round_to_bfloat16(normal(0, 9, hidden))
    reference = FastDeployReference()
    batch = batch_of([9], [0])
    expected = reference.moe(x, reference.pack_moe([ExpertBank(router, weights)], None, BFLOAT16), batch)
    with fastdeploy_ops(lineage) as ops:
        layer = ops.pack_moe([ExpertBank(router, weights)], None, BFLOAT16)
        found = floats(ops.moe(bfloat16(x), layer, ops.upload(batch)))
    np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


def test_experts_of_text_and_of_vision(ops: FastDeployOps) -> None:
    def bank(seed: int) -> ExpertBank:
        router = RouterWeights(normal(seed, 4, 16), np.zeros(4, np.float32), 2)
        return ExpertBank(
            router,
            [
                MlpWeights(quantize_int8(normal(seed + each, 16, 16)), quantize_int8(normal(each, 16, 8)))
                for each in range(4)
            ],
        )

    x, batch = round_to_bfloat16(normal(0, 5, 16)), batch_of([5], [0])
    batch = replace(batch, vision_rows=np.array([1, 3], np.int32))
    reference = FastDeployReference()
    expected = reference.moe(x, reference.pack_moe([bank(1), bank(50)], None, BFLOAT16), batch)
    layer = ops.pack_moe([bank(1), bank(50)], None, BFLOAT16)
    found = floats(ops.moe(bfloat16(x), layer, ops.upload(batch)))
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


# Engine: prefixes that are shared, preemption, chunks of one token and of many

COMPANY = [
    Lineage.V2_4,
    *(pytest.param(each, marks=pytest.mark.full) for each in (Lineage.V2_3, Lineage.DEVELOP)),
]


@pytest.mark.parametrize(
    "lineage",
    [Lineage.V2_4, *(pytest.param(each, marks=pytest.mark.full) for each in (Lineage.V2_3, Lineage.DEVELOP))],
)
def test_an_engine_answers_alike_in_any_company(lineage: Lineage) -> None:
    """Alone, together, from shared blocks, in chunks and after preemption; tokens are chosen on the device."""
    with fastdeploy_ops(lineage) as ops:
        _check_engine(ops)


def _check_engine(ops: FastDeployOps) -> None:
    model = load(checkpoint("dense"), ops, "bfloat16", "wint8", BFLOAT16)
    house = House(model, ops, "bfloat16", is_recording=False)
    prompts = [(*SHARED, *range(200, 200 + count)) for count in (1, 3, 6)]

    def answers(limits: SchedulerLimits, num_blocks: int, *, cache: bool = True) -> tuple[Any, Heartbeat]:
        fresh = [make_request(f"r{index}", prompt, 16) for index, prompt in enumerate(prompts)]
        filters = SamplingFilters(1.0, top_p=0.9)
        fresh[1].sequence.sampling = replace(fresh[1].sequence.sampling, filters=filters, seed=3)
        served, beat = house.answers(fresh, limits, num_blocks, cache=cache)
        return {name: tokens for name, (tokens, _) in served.items()}, beat

    alone, _ = answers(SchedulerLimits(1, 1000, 99), 60, cache=False)
    assert answers(SchedulerLimits(8, 1000, 99), 120, cache=False)[0] == alone
    hits, beat = answers(SchedulerLimits(8, 1000, 99), 120)
    assert hits == alone
    assert beat.prefix_cache_hits > 0
    assert answers(SchedulerLimits(4, 1, 99), 60)[0] == alone
    assert answers(SchedulerLimits(4, 5, 99), 60)[0] == alone
    preempted, beat = answers(SchedulerLimits(8, 64, 99), 12)
    assert preempted == alone
    assert beat.preemptions > 0


SOME = [
    Lineage.V2_4,
    *(pytest.param(each, marks=pytest.mark.full) for each in (Lineage.V2_3, Lineage.DEVELOP)),
]


@pytest.mark.parametrize("lineage", SOME)
def test_drafts_change_no_answer_and_save_steps(lineage: Lineage) -> None:
    """Right and wrong ones, of a greedy and of a random request, by the branch for speculation."""
    seen: list[list[int]] = []
    library = fastdeploy_library(lineage)

    def attend(**arguments: Any) -> Any:
        seen.append(arguments["len_info_cpu"].numpy().tolist())
        return library.block_attn(**arguments)

    with fastdeploy_ops(lineage, replace(library, block_attn=attend)) as ops:
        model = load(checkpoint("dense"), ops, "bfloat16", "wint8", BFLOAT16)
        plain, num_steps = _drafted_answers(model, ops, {})
        assert all(info[1] <= 2 for info in seen)
        drafted, fewer = _drafted_answers(model, ops, plain)
    assert drafted == plain
    assert fewer < num_steps
    is_speculative = [info[6] > 1 for info in seen if len(info) > 6]
    assert any(is_speculative) == (lineage is not Lineage.V2_3)


def _drafted_answers(
    model: Model, ops: FastDeployOps, known: dict[str, tuple[int, ...]]
) -> tuple[dict[str, tuple[int, ...]], int]:
    """Return answers and steps; drafts are those ``known``, but for every fifth token."""
    spec = CacheSpec(60, BLOCK_SIZE, model.config.num_kv_heads, model.config.head_dim, "bfloat16")
    runner = ModelRunner(model, ops, [ops.allocate_cache(spec) for _ in range(model.config.num_layers)])
    sampler = Sampler(ReferenceOps(), model.config.vocab_size)
    engine = Engine(runner, BlockManager(60, BLOCK_SIZE), SchedulerLimits(4, 12, 9), sampler)
    requests = {name: make_request(name, (*SHARED, index), 16) for index, name in enumerate("ab")}
    sampling = replace(requests["b"].sequence.sampling, filters=SamplingFilters(1.0, top_p=0.9), seed=3)
    requests["b"].sequence.sampling = sampling
    answers: dict[str, tuple[int, ...]] = dict.fromkeys(requests, ())
    for request in requests.values():
        assert engine.submit(request) is None
    while engine.has_work:
        for name, answer in answers.items():
            follows = known.get(name, ())[len(answer) :][: 3 if name == "a" else 2]
            guesses = [each + ((len(answer) + index) % 5 == 4) for index, each in enumerate(follows)]
            requests[name].sequence.draft_ids = tuple(guesses)
        for output in engine.step():
            assert output.error is None
            answers[output.request_id] += output.token_ids
    return answers, engine.heartbeat.steps


# Planted faults: each is noticed, by the kernel where a card would compute nonsense.


def dense_logits(ops: FastDeployOps) -> Floats:
    return logits_of(ops, "dense", "wint8")


def with_op(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A library one of whose ops is given something else."""
    library = fastdeploy_library(Lineage.V2_4)
    op = getattr(library, name)
    changed: dict[str, Any] = {name: lambda **arguments: op(**{**arguments, **change(arguments)})}
    return replace(library, **changed)


FAULTS: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "weights [K, N]": (
        "weight_only_linear_xpu",
        lambda given: {"weight": given["weight"].t().contiguous()},
        r"weight .*is not \[N, K\]",
    ),
    "weights that are a view": (
        "weight_only_linear_xpu",
        lambda given: {"weight": given["weight"].t()},
        "weight is not contiguous",
    ),
    "float32 activations": (
        "weight_only_linear_xpu",
        lambda given: {"x": given["x"].astype("float32")},
        "x is paddle.float32, the kernel reads bfloat16",
    ),
    "float32 keys": (
        "block_attn",
        lambda given: {"qkv": given["qkv"].astype("float32")},
        "qkv is paddle.float32",
    ),
    "lods of the host on the device": (
        "block_attn",
        lambda given: {"encoder_seq_lod": given["encoder_seq_lod_cpu"]},
        "encoder_seq_lod is not on the device",
    ),
    "lods of the device on the host": (
        "block_attn",
        lambda given: {"prefix_len_cpu": given["prefix_len"]},
        "prefix_len_cpu is not on the host",
    ),
    "cache axes": (
        "block_attn",
        lambda given: {
            name: given[name].transpose((0, 2, 1, 3)).contiguous() for name in ("key_cache", "value_cache")
        },
        "its axes are others",
    ),
    "half a rotary table": (
        "block_attn",
        lambda given: {"rotary_embs": given["rotary_embs"][..., ::2].contiguous()},
        "HALF_HEAD_DIM is for 3-D tables",
    ),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_faults_that_a_kernel_notices(fault: str) -> None:
    name, change, complaint = FAULTS[fault]
    with (
        fastdeploy_ops(Lineage.V2_4, with_op(name, change)) as ops,
        pytest.raises(AssertionError, match=complaint),
    ):
        dense_logits(ops)


def test_an_order_of_rows_that_is_not_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ernie_kernels.fastdeploy.ops.describe_step",
        lambda batch, *rest, **flags: replace(describe_step(batch, *rest, **flags), batch=batch),
    )
    rows = golden_rows("dense")
    prompts = [rows[0].prompt, rows[3].prompt]  # one decodes while the other fills in
    with fastdeploy_ops(Lineage.V2_4) as ops:
        model = load(checkpoint("dense"), ops, "bfloat16", None, BFLOAT16)
        found, _ = generate(model, ops, prompts, 6, chunk=7)
        monkeypatch.undo()
        expected, _ = generate(model, ops, prompts, 6, chunk=7)
    assert found != expected


@pytest.mark.parametrize("quantization", ["wint8", "wint4"])
def test_scales_of_another_convention(monkeypatch: pytest.MonkeyPatch, quantization: str) -> None:
    """Scales of one code instead of the largest."""
    monkeypatch.setattr(linear, "_CODE_OF_ABSMAX", np.float32(1))
    with fastdeploy_ops(Lineage.V2_4) as ops:
        found = logits_of(ops, "moe_tp", quantization)
    with pytest.raises(AssertionError):
        assert_same_answers(found, logits_of(FastDeployReference(), "moe_tp", quantization))


def test_names_of_formats_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe, "_FFN_NAMES", {"weight_only_int8": "weight_only_int8"})
    with (
        fastdeploy_ops(Lineage.V2_4) as ops,
        pytest.raises(AssertionError, match=r"weight_only_int8 is not of FastDeploy 2.4"),
    ):
        logits_of(ops, "moe_tp", "wint8")


# What FastDeploy cannot do


def test_blocks_that_the_kernels_lack() -> None:
    with (
        fastdeploy_ops(Lineage.V2_4, block_sizes=BLOCK_SIZES) as ops,
        pytest.raises(UnsupportedError, match=r"blocks of 64 tokens; block_size is 16; leave it out"),
    ):
        ops.allocate_cache(CacheSpec(2, 16, 1, 8, "bfloat16"))


def test_caches_that_the_kernels_lack(ops: FastDeployOps) -> None:
    spec = CacheSpec(2, 4, 1, 8, "int8")
    with pytest.raises(UnsupportedError, match=r"static scales only; leave kv_cache_dtype out, .*c8"):
        ops.allocate_cache(spec)
    with pytest.raises(UnsupportedError, match=r"no float32 cache; use --dtype bfloat16"):
        ops.allocate_cache(replace(spec, dtype="float32"))


def test_experts_that_the_kernels_lack(ops: FastDeployOps) -> None:
    router = RouterWeights(normal(0, 2, 6), np.zeros(2, np.float32), 1)

    def pack(weight: Callable[[Floats], Any], inner: int, count: int = 2, own: range | None = None) -> None:
        experts = [
            MlpWeights(weight(normal(1, 2 * inner, 6)), weight(normal(2, 6, inner))) for _ in range(count)
        ]
        ops.pack_moe([ExpertBank(router, experts, own)], None, BFLOAT16)

    with pytest.raises(
        UnsupportedError, match=r"all experts.*--enable-expert-parallel .*--tensor-parallel-size"
    ):
        pack(quantize_int8, 4, 1, range(1))
    with pytest.raises(UnsupportedError, match=r"even number of inputs for int4; there are 5; .*wint8"):
        pack(quantize_int4, 5)
    with pytest.raises(UnsupportedError, match="inputs of an expert's down matrix only"):
        pack(lambda values: quantize_w4a8(values, 1.0, 2), 4)
    with pytest.raises(UnsupportedError, match="no float32 experts; use --dtype bfloat16"):
        pack(Float32Weight, 4)
    with pytest.raises(ValueError, match="there are 3 experts, the router has 2"):
        pack(quantize_int8, 4, 3)


def test_steps_that_do_not_fit_their_cache(ops: FastDeployOps) -> None:
    """They may use other ops; attention says what is wrong."""
    early = ops.upload(batch_of([3], [2]))
    table, cache = (
        ops.pack_rotary(RotarySpec(8, 32, 10000.0)),
        ops.allocate_cache(CacheSpec(2, 4, 1, 8, "bfloat16")),
    )
    qkv = bfloat16(normal(0, 3, 24))
    with pytest.raises(ValueError, match="uploaded after its cache is allocated"):
        ops.attention(qkv, table, cache, early)
    wrong = ops.upload(replace(batch_of([3], [2]), block_tables=np.array([[0, 2]], np.int32)))
    with pytest.raises(ValueError, match="block_tables has 2, expected 0 to 1"):
        ops.attention(qkv, table, cache, wrong)
    assert ops.attention(qkv, table, cache, ops.upload(batch_of([3], [2]))).shape == [3, 8]


@pytest.mark.parametrize("lineage", [Lineage.V2_3, pytest.param(Lineage.DEVELOP, marks=pytest.mark.full)])
def test_the_selfcheck_passes(lineage: Lineage) -> None:
    """What the owner of a card runs: every op, a model of every family in every format, the probes."""
    with fastdeploy_ops(lineage, block_sizes=BLOCK_SIZES) as ops:
        checks = [*check_ops(ops, 0.03), *check_models(ops, 0.03), *check_probes(ops)]
    assert [check for check in checks if not check.passed] == []
    refused = [check.name for check in checks if check.found.startswith("refused")]
    assert refused == ["attention, float32 cache", "attention, int8 cache"]
