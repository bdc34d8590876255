"""Changes of settings that make a plan fit, and the refusal that names them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as some

from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.devices.device import p800
from ernie_backend.errors import StartError
from ernie_backend.planning.engine_plan import check_fits
from ernie_backend.planning.memory_plan import MemoryPlan, plan_memory
from ernie_backend.planning.model_shape import ModelShape
from ernie_backend.planning.suggestions import suggest_changes
from ernie_backend.planning.units import format_bytes
from support.checkpoints.planned_models import WIDE, exactly, plan_settings, quantized, with_experts


def misfit(share: float, shape: ModelShape | None = None, **settings: Any) -> MemoryPlan:
    """Return a plan whose device has a share of what is needed."""
    shape = with_experts() if shape is None else shape
    requested = plan_settings(**settings)
    device = replace(p800(), runtime_bytes=0)
    needed = plan_memory(shape, requested, device).needed / requested.cache.gpu_memory_utilization
    return plan_memory(shape, requested, replace(device, memory_bytes=int(needed * share)))


def test_a_little_too_much_takes_a_little_more_memory() -> None:
    changes = suggest_changes(misfit(0.99, gpu_memory_utilization=0.8))
    assert changes == [{"gpu_memory_utilization": 0.81}, {"quantization": "wint8"}, {"tensor_parallel_size": 2}]


def test_where_all_memory_is_used_requests_get_shorter() -> None:
    (first, *_) = suggest_changes(misfit(0.99, gpu_memory_utilization=0.95))
    assert list(first) == ["max_model_len"]


def test_half_of_the_memory_takes_smaller_weights_or_more_devices() -> None:
    changes = suggest_changes(misfit(0.6, max_num_batched_tokens=256))
    assert changes == [{"quantization": "wint8"}, {"tensor_parallel_size": 2}]


def test_smaller_weights_come_before_shorter_requests() -> None:
    changes = suggest_changes(misfit(0.4, max_num_batched_tokens=64, gpu_memory_utilization=0.95))
    assert changes[0] == {"quantization": "wint4"}


def test_where_neither_is_enough_smaller_weights_go_on_more_devices() -> None:
    plan = misfit(0.11, max_num_batched_tokens=64, gpu_memory_utilization=0.95)
    (changes,) = suggest_changes(plan)
    assert list(changes)[:2] == ["quantization", "tensor_parallel_size"]
    assert plan_memory(plan.shape, plan.settings.replaced(**changes), plan.device).fits


def test_too_many_blocks_are_lowered_to_those_that_fit() -> None:
    settings = plan_settings(gpu_memory_utilization=1.0, num_gpu_blocks_override=100)
    needed = plan_memory(WIDE, settings, p800()).needed
    plan = plan_memory(WIDE, settings, exactly(needed - 1))
    assert suggest_changes(plan)[0] == {"num_gpu_blocks_override": 99}


def test_on_a_cpu_more_ranks_do_not_help() -> None:
    plan = misfit(0.6, max_num_batched_tokens=256)
    changes = suggest_changes(replace(plan, device=replace(plan.device, is_shared=True)))
    assert changes
    assert all("tensor_parallel_size" not in each for each in changes)


def test_a_quantized_checkpoint_keeps_its_format() -> None:
    shape = quantized(with_experts(), QuantizationConfig("w4a8", has_cache_scales=True))
    changes = suggest_changes(misfit(0.7, shape, quantization="w4a8"))
    assert changes
    assert all("quantization" not in each for each in changes)


@pytest.mark.parametrize("memory", [1 << 20, 0])  # a container that is full has none left
def test_where_nothing_helps_nothing_is_suggested(memory: int) -> None:
    plan = plan_memory(WIDE, plan_settings(), exactly(memory))
    assert suggest_changes(plan) == []
    with pytest.raises(StartError, match=rf"had: {format_bytes(plan.budget)} .*; no shorter .*max_num_seqs"):
        check_fits(plan)


@hypothesis_settings(deadline=None, max_examples=25)
@given(
    share=some.floats(0.02, 0.999),
    utilization=some.floats(0.05, 1.0),
    length=some.integers(64, 4096),
    has_experts=some.booleans(),
)
def test_what_is_suggested_fits(share: float, utilization: float, length: int, has_experts: bool) -> None:
    shape = with_experts() if has_experts else WIDE
    plan = misfit(share, shape, gpu_memory_utilization=utilization, max_model_len=length)
    for each in suggest_changes(plan):
        settings = plan.settings.replaced(**each)
        assert plan_memory(shape, settings, plan.device).fits
        assert settings.cache.gpu_memory_utilization <= max(0.95, utilization)
        assert settings.loading.max_model_len <= length
        assert all(value != plan.settings.flat[name] for name, value in each.items())


def test_a_refusal_names_need_have_and_ways_out_in_a_line() -> None:
    plan = misfit(0.8, gpu_memory_utilization=0.5)
    with pytest.raises(StartError) as raised:
        check_fits(plan)
    message = raised.value.message
    assert f"memory needed: {format_bytes(plan.needed)}" in message
    memory = f"of {format_bytes(plan.memory)}, assumed)"
    assert f"had: {format_bytes(plan.budget)} (gpu_memory_utilization 0.5 {memory}" in message
    assert "settings that fit: gpu_memory_utilization 0.63; or " in message
    assert "\n" not in message
