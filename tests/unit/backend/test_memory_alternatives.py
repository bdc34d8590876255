"""The settings nearest to ones that do not fit, and the refusal that names them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as some

from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.config.vision_shape import VisionShape
from ernie_backend.devices.device import GIB, p800
from ernie_backend.errors import StartError
from ernie_backend.planning.engine_plan import check_fits
from ernie_backend.planning.memory_plan import MemoryPlan, plan_memory
from ernie_backend.planning.model_shape import ModelShape
from ernie_backend.planning.plan_settings import PlanSettings
from ernie_backend.planning.suggestions import nearest_fits
from unit.backend.planned_models import WIDE, exactly, quantized, wide, with_experts


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


def test_a_change_that_brings_next_to_nothing_is_not_proposed() -> None:
    plan = plan_memory(WIDE, PlanSettings(num_gpu_blocks_override=10**8), p800())
    changes = [set(each.changed) for each in nearest_fits(plan, count=20)]
    assert {"num_gpu_blocks_override"} in changes
    assert {"num_gpu_blocks_override", "tensor_parallel_size"} in changes
    assert {"num_gpu_blocks_override", "quantization"} not in changes  # room for a thousandth more


def test_requests_and_pictures_are_lowered_too() -> None:
    wordy = wide(vocab_size=100_000)
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
    shape = quantized(with_experts(), QuantizationConfig("w4a8", has_cache_scales=True))
    nearest = nearest_fits(misfit(0.7, shape, quantization="w4a8"))
    assert nearest
    assert not {"quantization", "kv_cache_dtype"} & {name for each in nearest for name in each.changed}


@pytest.mark.parametrize("memory", [1 << 20, 0])  # a container that is full has none left
def test_where_nothing_helps_nothing_is_proposed(memory: int) -> None:
    plan = plan_memory(WIDE, PlanSettings(), exactly(memory))
    assert nearest_fits(plan) == []
    with pytest.raises(StartError, match=r"needed: .* 0\.00[01] GiB .*no setting"):
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
