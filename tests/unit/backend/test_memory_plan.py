"""The plan of the memory: sizes of weights and KV cache, and what fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.config.architectures import ARCHITECTURES
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.devices.device import GIB, composed_p800, cpu, p800
from ernie_backend.errors import StartError
from ernie_backend.models.load import load_model
from ernie_backend.planning.memory_plan import plan_memory
from ernie_backend.planning.model_shape import ModelShape, read_shape
from ernie_backend.planning.rank_sizes import weight_bytes
from ernie_backend.settings.engine_settings import EngineSettings, LoadSettings
from ernie_backend.weights.recipes import recipes
from ernie_backend.weights.roles import Role
from ernie_backend.weights.sharding import shard_of
from ernie_kernels.api import ExpertBank, MlpWeights, Ops, RotarySpec
from ernie_kernels.attention_blocks import scratch_bytes
from ernie_kernels.formats import ActivationType, GroupedInt4Weight, LinearWeight, W4A8Weight
from support.checkpoints.planned_models import (
    EXPERTS,
    WIDE,
    exactly,
    model,
    plan_settings,
    quantized,
    with_experts,
)
from support.paths import DATA, DENSE

FORMATS = [
    ("float32", None),
    ("bfloat16", None),
    ("bfloat16", "wint8"),
    ("float32", "wint8"),
    ("bfloat16", "wint4"),
    ("bfloat16", "wint4_all"),
    ("bfloat16", "w4a8"),
]


def size(weight: LinearWeight) -> int:
    if isinstance(weight, W4A8Weight):
        return size(weight.weight)
    if isinstance(weight, GroupedInt4Weight):
        return weight.packed.nbytes + 2 * weight.scales.size  # the kernels hold them as bfloat16
    return sum(each.nbytes for each in vars(weight).values() if isinstance(each, np.ndarray))


class WeighingOps:
    """Adds up the bytes of what a model packs."""

    def __init__(self) -> None:
        self.packed_bytes = 0

    def pack_linear(self, weight: LinearWeight, activation: ActivationType) -> None:
        del activation
        self.packed_bytes += size(weight)

    def pack_vector(self, values: NDArray[np.float32]) -> None:
        self.packed_bytes += values.nbytes

    def pack_rotary(self, spec: RotarySpec) -> None:
        """Of the activations' bytes."""

    def pack_moe(
        self, banks: Sequence[ExpertBank], shared: MlpWeights | None, activation: ActivationType
    ) -> None:
        del activation
        mlps = [shared] if shared else []
        for bank in banks:
            self.packed_bytes += bank.router.gate.nbytes + bank.router.correction_bias.nbytes
            experts = list(bank.experts)
            assert len(experts) == len(bank.local_experts or ())
            mlps += experts
        self.packed_bytes += sum(size(mlp.gate_up) + size(mlp.down) for mlp in mlps)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("fields", [{}, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize(("dtype", "quantization"), FORMATS)
@pytest.mark.parametrize(("ranks", "is_expert_parallel"), [(1, False), (2, False), (2, True), (4, True)])
def test_the_plan_has_the_bytes_that_the_model_packs(
    tmp_path: Path,
    dtype: str,
    quantization: str | None,
    fields: dict[str, Any],
    is_tied: bool,
    ranks: int,
    is_expert_parallel: bool,
) -> None:
    """Of the first rank; with 4 ranks its attention and shared experts are whole, having 2 kv heads."""
    if fields:
        fields = {
            **fields,
            "moe_intermediate_size": 256,
            "vocab_size": 600,
        }  # whole Hadamard blocks for 2 ranks
    elif ranks == 4:
        fields = {"num_key_value_heads": 4}
    directory = model(tmp_path, tie_word_embeddings=is_tied, **fields)
    config, ops = ModelConfig.from_directory(directory), WeighingOps()
    shard = shard_of(config, 0, ranks, is_expert_parallel=is_expert_parallel)
    how = LoadSettings(dtype, quantization, ActivationType.FLOAT32, 64, "dummy")
    load_model(directory, config, cast("Ops", ops), how, shard)
    settings = plan_settings(
        dtype=dtype,
        quantization=quantization,
        tensor_parallel_size=ranks,
        enable_expert_parallel=is_expert_parallel,
    )
    plan = plan_memory(read_shape(directory), settings, cpu(GIB))
    assert sum(plan.weights.values()) == ops.packed_bytes


@pytest.mark.parametrize("name", ["vl_moe", "paddleocr_vl"])
@pytest.mark.parametrize(
    ("dtype", "quantization"), [("bfloat16", None), ("bfloat16", "wint8"), ("float32", None)]
)
@pytest.mark.parametrize(("ranks", "is_expert_parallel"), [(1, False), (2, False), (2, True)])
def test_the_plan_has_the_bytes_of_towers_and_experts_of_media(
    name: str, dtype: str, quantization: str | None, ranks: int, is_expert_parallel: bool
) -> None:
    directory, ops = DENSE.parent / name, WeighingOps()
    config = ModelConfig.from_directory(directory)
    shard = shard_of(config, 0, ranks, is_expert_parallel=is_expert_parallel)
    how = LoadSettings(dtype, quantization, ActivationType.FLOAT32, 64, "dummy")
    load_model(directory, config, cast("Ops", ops), how, shard)
    settings = plan_settings(
        dtype=dtype,
        quantization=quantization,
        tensor_parallel_size=ranks,
        enable_expert_parallel=is_expert_parallel,
    )
    planned = weight_bytes(read_shape(directory), settings, cpu(GIB))
    assert sum(planned.values()) == ops.packed_bytes


@pytest.mark.parametrize(
    "name",
    [
        "dense",
        "dense-Paddle",
        "moe",
        "moe-Paddle",
        "moe300b",
        "moe_tp",
        "vl_moe",
        "vl_moe-Paddle",
        "paddleocr_vl",
    ],
)
def test_the_weights_of_a_bfloat16_checkpoint_are_all_planned(name: str) -> None:
    directory = DENSE.parent / name
    shape, stored = read_shape(directory), 0
    for path in directory.glob("*.safetensors"):
        with path.open("rb") as file:
            stored += path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")
    layout = ARCHITECTURES[shape.config.architecture].layouts[0]
    vectors = sum(
        math.prod(recipe.shape)
        for key, recipe in recipes(shape.config, layout).items()
        if key.role.is_vector and key.role is not Role.ROUTER_BIAS
    )
    assert sum(weight_bytes(shape, plan_settings(), p800()).values()) == stored + 2 * vectors


@pytest.mark.parametrize("is_expert_parallel", [True, False])
@pytest.mark.parametrize("quantization", [None, "wint8", "wint4", "w4a8"])
def test_four_ranks_hold_the_model_once_but_for_what_each_has_whole(
    quantization: str | None, is_expert_parallel: bool
) -> None:
    whole = weight_bytes(with_experts(), plan_settings(quantization=quantization), p800())
    settings = plan_settings(
        quantization=quantization, tensor_parallel_size=4, enable_expert_parallel=is_expert_parallel
    )
    part = weight_bytes(with_experts(), settings, p800())
    assert part["routers and norms"] == whole["routers and norms"]
    for group in ("embeddings", "attention", "routed experts"):
        # Linears that are cut along their inputs have their scales on every rank.
        assert 0 <= 4 * part[group] - whole[group] < 0.02 * whole[group]


def test_blocks_of_a_rotation_are_whole_in_a_plan_too() -> None:
    stored = QuantizationConfig("w4a8", hadamard_block=64)
    shape = quantized(with_experts(moe_intermediate_size=256), stored)
    assert plan_memory(shape, plan_settings(tensor_parallel_size=4), p800()).fits
    random = quantized(shape, None), plan_settings(quantization="w4a8", tensor_parallel_size=4)
    with pytest.raises(StartError, match=r"128 .*moe_intermediate_size .* 1, 2,"):
        plan_memory(*random, p800())
    with pytest.raises(StartError, match="moe_intermediate_size 64"):
        plan_memory(with_experts(moe_intermediate_size=64), plan_settings(quantization="w4a8"), p800())


@pytest.mark.parametrize(
    ("settings", "shape", "per_token"),
    [
        (plan_settings(), WIDE, 4 * 2 * 4 * 64 * 2),
        (plan_settings(dtype="float32"), WIDE, 4 * 2 * 4 * 64 * 4),
        (plan_settings(kv_cache_dtype="int8"), WIDE, 4 * 2 * 4 * (64 + 4)),
        (
            plan_settings(),
            quantized(WIDE, QuantizationConfig("wint8", has_cache_scales=True)),
            4 * 2 * 4 * 64,
        ),
        (plan_settings(tensor_parallel_size=4), WIDE, 4 * 2 * 64 * 2),
    ],
)
def test_a_token_takes_keys_and_values_of_every_layer(
    settings: EngineSettings, shape: ModelShape, per_token: int
) -> None:
    plan = plan_memory(shape, settings, p800())
    assert plan.bytes_per_token == per_token
    assert plan.bytes_per_block == 64 * per_token


def test_it_fits_to_the_byte() -> None:
    settings = plan_settings(gpu_memory_utilization=1.0)
    needed = plan_memory(WIDE, settings, p800()).needed
    enough, lacking = (plan_memory(WIDE, settings, exactly(needed - byte)) for byte in (0, 1))
    assert (enough.fits, enough.num_sequences, enough.num_tokens) == (True, 1, 2048)
    assert (lacking.fits, lacking.num_sequences, lacking.num_tokens) == (False, 0, 2048 - 64)
    more = plan_memory(WIDE, settings, exactly(needed + 33 * enough.bytes_per_block))
    assert (more.num_tokens, more.num_sequences) == (2048 + 33 * 64, 2)
    assert (more.more_tokens, more.more_sequences) == (33 * 64, 1)


def test_blocks_that_the_user_chose_are_what_must_fit_and_all_that_there_will_be() -> None:
    chosen = plan_settings(gpu_memory_utilization=1.0, num_gpu_blocks_override=2 * 32 + 5)
    plan = plan_memory(WIDE, chosen, p800())
    assert plan.needed == plan.fixed + 69 * plan.bytes_per_block
    assert plan_memory(WIDE, chosen, exactly(plan.needed)).fits
    assert not plan_memory(WIDE, chosen, exactly(plan.needed - 1)).fits
    assert (plan.num_tokens, plan.num_sequences) == (69 * 64, 2)
    assert (plan.more_tokens, plan.more_sequences) == (37 * 64, 1)


def test_a_chosen_cache_holds_a_request() -> None:
    settings = plan_settings(num_gpu_blocks_override=31)
    with pytest.raises(StartError, match=r"override 31 .* 32 blocks .*1984"):
        plan_memory(WIDE, settings, p800())
    assert plan_memory(WIDE, settings.replaced(max_model_len=1984), p800()).fits


def test_parts_for_ranks_are_read_by_as_many_or_by_one() -> None:
    shape = replace(WIDE, num_parts=4)
    for ranks in (1, 4):
        assert plan_memory(shape, plan_settings(tensor_parallel_size=ranks), p800()).fits
    with pytest.raises(StartError, match=r"4 ranks .* is 2"):
        plan_memory(shape, plan_settings(tensor_parallel_size=2), p800())


def test_ranks_on_a_cpu_share_its_memory() -> None:
    settings = plan_settings(tensor_parallel_size=4)
    assert plan_memory(WIDE, settings, cpu(8 * GIB)).memory == 2 * GIB
    assert plan_memory(WIDE, settings, p800(8 * GIB)).memory == 8 * GIB
    alone = plan_memory(WIDE, plan_settings(), cpu(8 * GIB)).runtime
    assert plan_memory(WIDE, settings, cpu(8 * GIB)).runtime == alone + (320 << 20)


def test_composed_attention_takes_memory_that_does_not_grow_with_the_context() -> None:
    """Its scores and contexts are counted, so that they are not given to the KV cache."""
    shape = read_shape(DENSE)
    settings = EngineSettings(DENSE).replaced(max_model_len=512, max_num_batched_tokens=64)
    plain = replace(composed_p800(), attends_in_blocks=False)
    config = shape.config
    for length in (512, 131072):
        longer = settings.replaced(max_model_len=length)
        with_attention, without = (
            plan_memory(shape, longer, device).activations for device in (composed_p800(), plain)
        )
        expected = scratch_bytes(config.num_heads, config.num_kv_heads, config.head_dim)
        assert with_attention - without == expected


@pytest.mark.parametrize("family", ["vl_moe", "paddleocr_vl"])
def test_models_that_see_take_a_rotary_table_for_each_sequence(family: str) -> None:
    """With FastDeploy's ops; its older versions compose PaddleOCR-VL's attention, which may take more."""
    shape = read_shape(DATA / family)
    config = shape.config
    head_dim, least = config.head_dim, 0
    width = head_dim // 2
    if family == "paddleocr_vl":
        width, least = head_dim, scratch_bytes(config.num_heads, config.num_kv_heads, head_dim)
    for length, sequences in ((64, 5), (4096, 32)):
        settings = plan_settings(max_model_len=length, max_num_seqs=sequences)
        plain = replace(p800(), has_sequence_rotary=False)
        with_tables, without = (plan_memory(shape, settings, each).activations for each in (p800(), plain))
        tables = 4 * -(-sequences // 8) * 8 * 2 * length * width
        assert with_tables - without == max(tables, least)


@pytest.mark.parametrize("family", ["vl_moe", "paddleocr_vl"])
def test_media_take_embeddings_and_on_a_cpu_prepared_files_too(family: str) -> None:
    shape, context = read_shape(DATA / family), 3000
    settings = plan_settings(max_model_len=context)
    capacity = settings.scheduler.encoder_cache_tokens
    assert shape.vision is not None
    largest = min(shape.vision.max_pixels // 28**2, context)
    embeddings = (capacity + largest) * shape.config.hidden_size
    card, host = (plan_memory(shape, settings, device) for device in (p800(), cpu(64 * GIB)))
    assert card.media == 2 * embeddings
    prepared = settings.scheduler.max_media_bytes + settings.media.processor_cache_bytes
    assert host.media == 4 * embeddings + prepared
    without = plan_memory(replace(shape, config=replace(shape.config, vision=None)), settings, p800())
    assert without.media == 0
    vision, patches = shape.vision, 4 * largest
    held = patches * (vision.patch_values + 7 * vision.width)
    piece = min(patches, 1024) * (4 * vision.width + vision.mlp_width)
    assert card.activations - without.activations == 2 * (held + piece)
    assert card.fixed - without.fixed == card.media + 2 * (held + piece) + card.weights["vision tower"]
