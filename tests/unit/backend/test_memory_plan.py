"""The plan of the memory: sizes of weights and KV cache, what fits, and what would."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as some

from ernie_backend.config_fields import ConfigFields
from ernie_backend.errors import StartError
from ernie_backend.memory.alternatives import nearest_fits
from ernie_backend.memory.config_shape import read_shape, shape_of
from ernie_backend.memory.devices import GIB, Device, cpu, p800
from ernie_backend.memory.engine_plan import check_fits
from ernie_backend.memory.memory_plan import MemoryPlan, plan_memory
from ernie_backend.memory.plan_settings import PlanSettings
from ernie_backend.memory.weight_sizes import weight_bytes
from ernie_backend.model_config import ModelConfig
from ernie_backend.model_shape import ExpertBank, ExpertShape, ModelShape, VisionShape
from ernie_backend.stored_quantization import StoredQuantization
from ernie_backend.weights.dummy import DummyWeights
from ernie_backend.weights.names import huggingface_recipes
from ernie_backend.weights.roles import Role
from ernie_kernels.formats import LinearWeight, W4A8Weight

DENSE = Path(__file__).parents[2] / "data" / "dense"
EXPERTS = {
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "moe_num_experts": 8,
    "moe_k": 3,
    "moe_intermediate_size": 48,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": 9,
    "moe_layer_interval": 2,
    "num_hidden_layers": 5,
}
VECTORS = {Role.INPUT_NORM, Role.POST_ATTENTION_NORM, Role.FINAL_NORM, Role.ROUTER_BIAS}
FORMATS = [
    ("float32", None),
    ("bfloat16", None),
    ("bfloat16", "wint8"),
    ("float32", "wint8"),
    ("bfloat16", "wint4"),
    ("bfloat16", "w4a8"),
]


def model(directory: Path, **fields: Any) -> Path:
    """Write a config.json: the dense golden's, with other fields."""
    text = json.loads((DENSE / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**text, **fields}))
    return directory


def size(weight: LinearWeight) -> int:
    if isinstance(weight, W4A8Weight):
        return size(weight.weight)
    return sum(each.nbytes for each in vars(weight).values() if isinstance(each, np.ndarray))


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("experts", [{}, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize(("dtype", "quantization"), FORMATS)
def test_the_weights_take_what_the_engine_makes_of_them(
    tmp_path: Path, dtype: str, quantization: str | None, experts: dict[str, Any], is_tied: bool
) -> None:
    directory = model(tmp_path, tie_word_embeddings=is_tied, **experts)
    config = ModelConfig.from_directory(directory)
    weights, held = DummyWeights(config, dtype, quantization), 0
    for key in huggingface_recipes(config):
        is_vector = key.role in VECTORS
        held += weights.vector(*key[:2]).nbytes if is_vector else size(weights.linear(*key))
    settings = PlanSettings(dtype=dtype, quantization=quantization)
    planned = weight_bytes(read_shape(directory), settings, cpu(GIB))
    assert sum(planned.values()) == held


def test_experts_are_counted_in_the_layers_that_have_them(tmp_path: Path) -> None:
    directory = model(tmp_path, **EXPERTS, mlp_layer_types=["sparse"] * 5)  # means nothing to a text model
    shape = read_shape(directory)
    assert shape.experts == ExpertShape((ExpertBank(8, 48, 2),), per_token=3, shared_width=96)
    assert shape.dense_layers == 3


@pytest.mark.parametrize("name", ["dense", "dense-Paddle", "moe", "moe-Paddle", "moe300b", "moe_tp"])
def test_the_weights_of_a_bfloat16_checkpoint_are_all_planned(name: str) -> None:
    directory = DENSE.parent / name
    shape, stored = read_shape(directory), 0
    for path in directory.glob("*.safetensors"):
        with path.open("rb") as file:
            stored += path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")
    norms_in_float32 = 2 * (2 * shape.num_layers + 1) * shape.hidden_size
    assert sum(weight_bytes(shape, PlanSettings(), p800()).values()) == stored + norms_in_float32


VISION: dict[str, Any] = {
    "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
    "moe_num_experts": [8, 8],
    "moe_intermediate_size": [32, 16],
    "moe_k": 3,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": [1, 1],
    "moe_layer_end_index": [4, 3],
    "num_hidden_layers": 4,
    "vision_config": {"depth": 2, "hidden_size": 32, "mlp_ratio": 4, "patch_size": 14},
}


def test_the_two_layouts_of_a_vision_model_have_one_shape(tmp_path: Path) -> None:
    paddle = read_shape(model(tmp_path, **VISION))
    text = json.loads((tmp_path / "config.json").read_text())
    tower = {"depth": 2, "hidden_size": 32, "intermediate_size": 128, "patch_size": 14}
    text |= {"moe_num_experts": 8, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}
    del text["moe_layer_start_index"], text["moe_layer_end_index"], text["vision_config"]
    outer = {"architectures": text.pop("architectures"), "text_config": text, "vision_config": tower}
    assert shape_of(ConfigFields(tmp_path, outer)) == paddle
    assert paddle.experts is not None
    assert paddle.experts.banks == (ExpertBank(8, 32, 3), ExpertBank(8, 16, 3))
    assert paddle.experts.shared_width == 64


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads 3"),
        ({"use_bias": True}, "use_bias is true"),
        ({**EXPERTS, "moe_k": 9}, "moe_k 9 is more than moe_num_experts 8"),
        ({**EXPERTS, "moe_num_experts": [8, 8]}, "moe_num_experts must be an integer"),
        ({**VISION, "vision_config": 3}, "vision_config must be an object"),
        ({**VISION, "moe_num_experts": [8, "8"]}, "moe_num_experts must be"),
        ({**VISION, "moe_num_experts": [8, 8, 8]}, "lists of experts differ in length"),
        ({**VISION, "moe_intermediate_size": []}, "lists of experts differ in length"),
        ({**VISION, "moe_k": 9}, "moe_k 9 is more than moe_num_experts 8"),
        ({**VISION, "head_dim": 15}, "head_dim 15 is odd"),
        ({**VISION, "mlp_layer_types": ["sparse"] * 5}, "a list of num_hidden_layers 4 words"),
        ({**VISION, "mlp_layer_types": ["dense", "sparse", "moe", "sparse"]}, "each one of dense, sparse"),
        ({"quantization_config": {"bits": 4}}, "quantization_config.quantization is None"),
    ],
)
def test_an_impossible_config_names_the_field(tmp_path: Path, fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StartError) as raised:
        read_shape(model(tmp_path, **fields))
    assert complaint in raised.value.message


def test_a_tower_with_an_embed_dim_is_so_wide(tmp_path: Path) -> None:
    shape = read_shape(model(tmp_path, **VISION))
    tower = {**VISION["vision_config"], "embed_dim": 32, "hidden_size": 128}
    assert read_shape(model(tmp_path, **{**VISION, "vision_config": tower})) == shape


def test_impossibly_large_sizes_are_planned_at_once() -> None:
    stored = {"quantization": "wint8", "kv_cache_quant_type": "int8"}
    huge = replace(WIDE, num_layers=10**12, num_heads=1 << 40, num_kv_heads=1 << 40)
    shape = with_experts(huge, quantization_config=stored)
    assert shape.experts is not None
    assert shape.experts.layers == 10**12
    assert not plan_memory(shape, PlanSettings(), p800()).fits


def test_fields_of_experts_mean_nothing_to_a_dense_model(tmp_path: Path) -> None:
    assert read_shape(model(tmp_path, moe_num_experts=8)).experts is None


def test_a_number_in_place_of_a_list_is_that_of_both_modalities(tmp_path: Path) -> None:
    shape = read_shape(model(tmp_path, **{**VISION, "moe_num_experts": 4, "moe_layer_start_index": 2}))
    assert shape.experts is not None
    assert shape.experts.banks == (ExpertBank(4, 32, 2), ExpertBank(4, 16, 2))


WIDE = ModelShape(
    vocab_size=1000,
    hidden_size=1024,
    intermediate_size=4096,
    num_layers=4,
    num_heads=16,
    num_kv_heads=4,
    head_dim=64,
    is_tied=False,
)


def with_experts(shape: ModelShape = WIDE, **fields: Any) -> ModelShape:
    text = {
        "architectures": ["Ernie4_5_MoeForCausalLM"],
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": shape.is_tied,
        "moe_num_experts": 8,
        "moe_k": 2,
        "moe_intermediate_size": 512,
    }
    return shape_of(ConfigFields(Path("config.json"), {**text, **fields}))


@pytest.mark.parametrize("is_expert_parallel", [True, False])
@pytest.mark.parametrize("quantization", [None, "wint8", "wint4", "w4a8"])
def test_four_ranks_hold_the_model_once_but_for_what_each_has_whole(
    quantization: str | None, is_expert_parallel: bool
) -> None:
    whole = weight_bytes(with_experts(), PlanSettings(quantization=quantization), p800())
    settings = PlanSettings(
        quantization=quantization, tensor_parallel_size=4, enable_expert_parallel=is_expert_parallel
    )
    part = weight_bytes(with_experts(), settings, p800())
    assert part["routers and norms"] == whole["routers and norms"]
    for group in ("embeddings", "attention", "routed experts"):
        # Linears that are cut along their inputs have their scales on every rank.
        assert 0 <= 4 * part[group] - whole[group] < 0.02 * whole[group]


def test_blocks_of_a_rotation_are_whole_in_a_plan_too() -> None:
    stored = StoredQuantization("w4a8", hadamard_block=64)
    shape = replace(with_experts(moe_intermediate_size=256), stored_quantization=stored)
    assert plan_memory(shape, PlanSettings(tensor_parallel_size=4), p800()).fits
    random = replace(shape, stored_quantization=None), PlanSettings(quantization="w4a8", tensor_parallel_size=4)
    with pytest.raises(StartError, match=r"2 blocks of 128 in moe_intermediate_size of this model; .* 1, 2$"):
        plan_memory(*random, p800())
    with pytest.raises(StartError, match="moe_intermediate_size 64 is no multiple of 128"):
        plan_memory(with_experts(moe_intermediate_size=64), PlanSettings(quantization="w4a8"), p800())


@pytest.mark.parametrize(
    ("settings", "shape", "per_token"),
    [
        (PlanSettings(), WIDE, 4 * 2 * 4 * 64 * 2),
        (PlanSettings(dtype="float32"), WIDE, 4 * 2 * 4 * 64 * 4),
        (PlanSettings(kv_cache_dtype="int8"), WIDE, 4 * 2 * 4 * (64 + 4)),
        (
            PlanSettings(),
            replace(WIDE, stored_quantization=StoredQuantization("wint8", has_cache_scales=True)),
            4 * 2 * 4 * 64,
        ),
        (PlanSettings(tensor_parallel_size=4), WIDE, 4 * 2 * 64 * 2),
    ],
)
def test_a_token_takes_keys_and_values_of_every_layer(
    settings: PlanSettings, shape: ModelShape, per_token: int
) -> None:
    plan = plan_memory(shape, settings, p800())
    assert plan.bytes_per_token == per_token
    assert plan.bytes_per_block == 64 * per_token


def exactly(needed: int) -> Device:
    return replace(p800(), memory_bytes=needed)


def test_it_fits_to_the_byte() -> None:
    settings = PlanSettings(gpu_memory_utilization=1.0)
    needed = plan_memory(WIDE, settings, p800()).needed
    enough, lacking = (plan_memory(WIDE, settings, exactly(needed - byte)) for byte in (0, 1))
    assert (enough.fits, enough.num_sequences, enough.num_tokens) == (True, 1, 2048)
    assert (lacking.fits, lacking.num_sequences, lacking.num_tokens) == (False, 0, 2048 - 64)
    more = plan_memory(WIDE, settings, exactly(needed + 33 * enough.bytes_per_block))
    assert (more.num_tokens, more.num_sequences) == (2048 + 33 * 64, 2)
    assert (more.more_tokens, more.more_sequences) == (33 * 64, 1)


def test_blocks_that_the_user_chose_are_what_must_fit_and_all_that_there_will_be() -> None:
    chosen = PlanSettings(gpu_memory_utilization=1.0, num_gpu_blocks_override=2 * 32 + 5)
    plan = plan_memory(WIDE, chosen, p800())
    assert plan.needed == plan.fixed + 69 * plan.bytes_per_block
    assert plan_memory(WIDE, chosen, exactly(plan.needed)).fits
    assert not plan_memory(WIDE, chosen, exactly(plan.needed - 1)).fits
    assert (plan.num_tokens, plan.num_sequences) == (69 * 64, 2)
    assert (plan.more_tokens, plan.more_sequences) == (37 * 64, 1)


def test_a_chosen_cache_holds_a_request() -> None:
    settings = PlanSettings(num_gpu_blocks_override=31)
    with pytest.raises(StartError, match=r"override 31 is less than the 32 blocks .* \(at most 1984 fits\)$"):
        plan_memory(WIDE, settings, p800())
    assert plan_memory(WIDE, replace(settings, max_model_len=1984), p800()).fits


@pytest.mark.parametrize(("ranks", "is_readable"), [(1, True), (2, False), (4, True)])
def test_parts_for_ranks_are_read_by_as_many_or_by_one(ranks: int, is_readable: bool) -> None:
    shape = replace(WIDE, num_parts=4)
    settings = PlanSettings(tensor_parallel_size=ranks)
    if is_readable:
        assert plan_memory(shape, settings, p800()).fits
        return
    with pytest.raises(
        StartError, match=r"was cut for 4 ranks \(rank0 to rank3\) .* is 2; give 4, or 1, which"
    ):
        plan_memory(shape, settings, p800())


def test_parts_are_counted_unless_the_weights_are_random(tmp_path: Path) -> None:
    directory = model(tmp_path)
    assert read_shape(directory).num_parts == 1
    for rank in range(4):
        (directory / f"rank{rank}").mkdir()
    assert read_shape(directory).num_parts == 4
    assert read_shape(directory, is_dummy=True).num_parts == 1


def test_ranks_on_a_cpu_share_its_memory() -> None:
    settings = PlanSettings(tensor_parallel_size=4)
    assert plan_memory(WIDE, settings, cpu(8 * GIB)).memory == 2 * GIB
    assert plan_memory(WIDE, settings, p800(8 * GIB)).memory == 8 * GIB
    alone = plan_memory(WIDE, PlanSettings(), cpu(8 * GIB)).runtime
    assert plan_memory(WIDE, settings, cpu(8 * GIB)).runtime == alone + (320 << 20)


def misfit(share: float, shape: ModelShape | None = None, **settings: Any) -> MemoryPlan:
    """Return a plan whose device has a share of what is needed."""
    shape = with_experts() if shape is None else shape
    asked = PlanSettings(**settings)
    device = replace(p800(), runtime_bytes=0)
    needed = plan_memory(shape, asked, device).needed / asked.gpu_memory_utilization
    return plan_memory(shape, asked, replace(device, memory_bytes=int(needed * share)))


def test_a_little_too_much_takes_a_little_change() -> None:
    plan = misfit(0.99, gpu_memory_utilization=0.8)
    nearest = nearest_fits(plan)
    assert nearest[0].changed == {"gpu_memory_utilization": 0.81}
    assert [len(each.changed) for each in nearest] == [1, 1, 1]
    assert len({tuple(each.changed) for each in nearest}) == 3


def test_half_of_the_memory_takes_smaller_weights_or_more_devices() -> None:
    nearest = nearest_fits(misfit(0.6, max_num_batched_tokens=256))
    changes = [each.changed for each in nearest]
    assert changes[:2] == [{"tensor_parallel_size": 2}, {"quantization": "wint8"}]


def test_too_many_blocks_are_lowered_to_those_that_fit() -> None:
    settings = PlanSettings(gpu_memory_utilization=1.0, num_gpu_blocks_override=100)
    needed = plan_memory(WIDE, settings, p800()).needed
    plan = plan_memory(WIDE, settings, exactly(needed - 1))
    assert {"num_gpu_blocks_override": 99} in [each.changed for each in nearest_fits(plan)]


def test_requests_and_pictures_are_lowered_too() -> None:
    wordy = replace(WIDE, vocab_size=100_000)
    many = misfit(0.97, wordy, max_num_seqs=64, max_num_batched_tokens=256, gpu_memory_utilization=0.95)
    assert {"max_num_seqs": 32} in [each.changed for each in nearest_fits(many, 5)]
    vision = VisionShape(parameters=10**6, width=1024, mlp_width=4096, patch_size=14, max_pixels=1 << 24)
    large = misfit(0.5, replace(WIDE, vision=vision), gpu_memory_utilization=0.95)
    assert nearest_fits(large)[0].changed == {"image_max_pixels": 1 << 22}


def test_nothing_is_proposed_that_changes_more_than_another_proposal() -> None:
    for share in (0.99, 0.7, 0.4, 0.2):
        nearest = nearest_fits(misfit(share))
        assert len(nearest) == 3
        assert all(each.is_beside(other) for each, other in itertools.permutations(nearest, 2))


def test_on_a_cpu_more_ranks_do_not_help() -> None:
    plan = misfit(0.5)
    nearest = nearest_fits(replace(plan, device=replace(plan.device, is_shared=True)))
    assert nearest
    assert all("tensor_parallel_size" not in each.changed for each in nearest)


def test_a_quantized_checkpoint_keeps_its_format() -> None:
    shape = replace(with_experts(), stored_quantization=StoredQuantization("w4a8", has_cache_scales=True))
    for each in nearest_fits(misfit(0.7, shape, quantization="w4a8")):
        assert not {"quantization", "kv_cache_dtype"} & set(each.changed)


@pytest.mark.parametrize("memory", [1 << 20, 0])  # a container that is full has none left
def test_where_nothing_helps_nothing_is_proposed(memory: int) -> None:
    plan = plan_memory(WIDE, PlanSettings(), exactly(memory))
    assert nearest_fits(plan) == []
    with pytest.raises(StartError, match=r"memory needed: .* had: 0.00[01] GiB .*; no setting makes it fit"):
        check_fits(plan)


@hypothesis_settings(deadline=None, max_examples=25)
@given(
    share=some.floats(0.02, 0.999),
    utilization=some.floats(0.05, 1.0),
    length=some.integers(64, 4096),
    has_experts=some.booleans(),
)
def test_what_is_proposed_fits_and_says_what_it_changes(
    share: float, utilization: float, length: int, has_experts: bool
) -> None:
    shape = with_experts() if has_experts else WIDE
    plan = misfit(share, shape, gpu_memory_utilization=utilization, max_model_len=length)
    for each in nearest_fits(plan):
        assert each.plan.fits
        assert each.plan.settings == replace(plan.settings, **each.changed)  # type: ignore[arg-type]
        assert each.plan.settings.gpu_memory_utilization <= max(0.95, utilization)


def test_a_refusal_names_need_have_and_ways_out_in_a_line() -> None:
    plan = misfit(0.8, gpu_memory_utilization=0.5)
    with pytest.raises(StartError) as raised:
        check_fits(plan)
    message = raised.value.message
    assert f"memory needed: {plan.needed / GIB:.3f} GiB" in message
    memory = f"of {plan.memory / GIB:.3f}, assumed)"
    assert f"had: {plan.budget / GIB:.3f} GiB (gpu_memory_utilization 0.5 {memory}" in message
    assert "nearest settings that fit: gpu_memory_utilization 0.63; or " in message
    assert "\n" not in message
