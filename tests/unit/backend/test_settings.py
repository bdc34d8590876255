"""The engine's settings: defaults, limits, notices."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QuantizationConfig
from ernie_backend.devices import backend as backends
from ernie_backend.devices.backend import BACKENDS, CPU, REFERENCE, XPU, Backend, find_backend
from ernie_backend.devices.host import usable_cores
from ernie_backend.errors import StartError
from ernie_backend.settings.engine_settings import SETTINGS, EngineSettings
from ernie_backend.settings.media_values import ProcessorKwargs, PromptLimits
from ernie_backend.settings.reader import read_settings
from ernie_backend.settings.speculative_config import SpeculativeConfig
from ernie_kernels.cpu import instruction_sets
from ernie_kernels.formats import ActivationType
from support.paths import DATA, DENSE

CONFIG = replace(ModelConfig.from_directory(DENSE), max_position_embeddings=131072)


def _read(**parameters: str) -> EngineSettings:
    return read_settings({"model": "/m/x", "weight_cache": "off", **parameters}, CONFIG)


def test_defaults() -> None:
    expected = EngineSettings(Path("/m/x"), threads=usable_cores(), served_model_name="x").replaced(
        max_num_batched_tokens=256 + 8, long_prefill_token_threshold=81
    )
    assert _read() == expected
    assert _read(max_model_len="", quantization="", device="") == expected
    assert (expected.scheduler.max_num_seqs, expected.loading.max_model_len) == (8, 2048)
    assert expected.cache.block_size == 64
    assert expected.loading.activation_dtype is ActivationType.INT16


@pytest.mark.parametrize(
    ("instruction_set", "quantization", "expected"),
    [
        ("avx2", "wint8", "int16"),
        ("avx512", "wint8", "int16"),
        ("avx2-vnni", "wint8", "int8"),
        ("avx512-vnni", "wint8", "int8"),
        ("avx512-amx", "wint8", "int16"),
        ("avx512-amx", "wint4_all", "int8"),
    ],
)
def test_quantized_weights_meet_int8_where_it_is_fast(
    monkeypatch: pytest.MonkeyPatch, instruction_set: str, quantization: str, expected: str
) -> None:
    monkeypatch.setattr(backends, "_cpu_instruction_set", lambda: instruction_set)
    for auto in ("", "auto"):
        settings = _read(quantization=quantization, activation_dtype=auto)
        assert settings.loading.activation_dtype.value == expected
        assert settings.notices == ()
        assert _read(activation_dtype=auto).loading.activation_dtype is ActivationType.INT16
    chosen = _read(quantization="wint8", activation_dtype="int16")
    assert chosen.loading.activation_dtype is ActivationType.INT16


@pytest.mark.parametrize("quantization", ["", "wint8"])
def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch, quantization: str) -> None:
    monkeypatch.setenv("ERNIE_CPU_ISA", "sse9")
    with pytest.raises(StartError, match=r"^ERNIE_CPU_ISA .*'sse9' .*scalar"):
        backends.CPU.create_ops(1) if not quantization else _read(quantization=quantization)


def test_where_quantized_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert _read(weight_cache="").loading.weight_cache == Path("/caches/ernie-triton/weights")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert _read(weight_cache="").loading.weight_cache == Path.home() / ".cache" / "ernie-triton" / "weights"
    assert _read(weight_cache="~/w").loading.weight_cache == Path.home() / "w"
    assert _read(weight_cache="OFF").loading.weight_cache is None


VALUES: dict[str, tuple[str, Any]] = {
    "device": ("Reference", "reference"),
    "dtype": ("float32", "float32"),
    "quantization": ("WINT8", "wint8"),
    "activation_dtype": ("int16", ActivationType.INT16),
    "max_model_len": ("32768", 32768),
    "max_num_seqs": ("128", 128),
    "max_num_batched_tokens": ("7", 7),
    "max_num_waiting": ("9", 9),
    "max_num_waiting_tokens": ("99", 99),
    "max_waiting_time": ("1.5", 1.5),
    "speculative_config": ('{"method": "ngram"}', SpeculativeConfig("ngram")),
    "max_num_partial_prefills": ("4", 4),
    "max_long_partial_prefills": ("2", 2),
    "long_prefill_token_threshold": ("100", 100),
    "kv_cache_dtype": ("int8", "int8"),
    "enable_prefix_caching": ("False", False),
    "enable_logprob": ("false", False),
    "max_logprobs": ("-1", -1),
    "logprobs_mode": ("processed_logits", "processed_logits"),
    "gpu_memory_utilization": ("0.7", 0.7),
    "num_gpu_blocks_override": ("12", 12),
    "block_size": ("16", 16),
    "threads": ("3", 3),
    "tensor_parallel_size": ("1", 1),
    "served_model_name": ("ernie", "ernie"),
    "reasoning_parser": ("ernie_45_VL", "ernie-45-vl"),
    "tool_call_parser": ("none", None),
    "mm_processor_kwargs": (
        '{"image_max_pixels": 12845056, "video_fps": -1, "video_frames_sample": "RAND"}',
        ProcessorKwargs(image_max_pixels=12845056, video_frames_sample="rand"),
    ),
    "limit_mm_per_prompt": ('{"image": 10}', PromptLimits(image=10, video=1)),
    "max_processor_cache": ("0", 0.0),
    "mm_boundary_experts": ("text", "text"),
}
"""Of each setting, a text and its value."""
READ_ELSEWHERE = {
    "chat_template",
    "enable_expert_parallel",
    "engine_worker_queue_port",
    "ips",
    "load_choices",
    "weight_cache",
}


def test_every_value_is_read() -> None:
    assert VALUES.keys() == SETTINGS.keys() - READ_ELSEWHERE
    settings = _read(engine_python="/usr/bin/python3", **{name: text for name, (text, _) in VALUES.items()})
    values = {name: value for name, (_, value) in VALUES.items()}
    assert settings.replaced(notices=()) == EngineSettings(Path("/m/x")).replaced(**values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_logprobs", "-2"),
        ("logprobs_mode", "raw"),
        ("max_num_seqs", "0"),
        ("max_num_batched_tokens", "0"),
        ("max_model_len", "1"),
        ("max_model_len", "32K"),
        ("block_size", "1.5"),
        ("num_gpu_blocks_override", "0"),
        ("max_num_waiting_tokens", "0"),
        ("max_waiting_time", "0"),
        ("max_num_partial_prefills", "0"),
        ("kv_cache_dtype", "int4"),
        ("enable_prefix_caching", "maybe"),
        ("threads", "-1"),
        ("gpu_memory_utilization", "1.1"),
        ("gpu_memory_utilization", "1.0000001"),
        ("gpu_memory_utilization", "nan"),
        ("gpu_memory_utilization", "much"),
        ("device", "cuda"),
        ("dtype", "float16"),
        ("activation_dtype", "int4"),
        ("quantization", "w4a16"),
        ("tensor_parallel_size", "4"),
        ("reasoning_parser", "qwen3"),
        ("tool_call_parser", "hermes"),
        ("mm_processor_kwargs", "7"),
        ("limit_mm_per_prompt", "{image: 1}"),
        ("max_processor_cache", "-2"),
        ("model", ""),
    ],
)
def test_wrong_values_name_field_and_value(name: str, value: str) -> None:
    with pytest.raises(StartError, match=f"{name} .*{value}"):
        _read(**{name: value})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('{"image_max_pixel": 1}', "'image_max_pixel'; known: .*image_max_pixels"),
        ('{"image_max_pixels": "1000000"}', "image_max_pixels '1000000'.*number"),
        ('{"image_max_pixels": 1e6}', "image_max_pixels 1000000.0.*number"),
        ('{"image_max_pixels": true}', "image_max_pixels True.*number"),
        ('{"image_max_pixels": 783}', "image_max_pixels.* 783.*784"),
        (
            '{"image_min_pixels": 5000, "image_max_pixels": 4000}',
            "image_min_pixels 5000.*image_max_pixels 4000",
        ),
        ('{"video_min_frames": 9, "video_max_frames": 8}', "video_min_frames 9.*video_max_frames 8"),
        ('{"video_fps": 0}', "video_fps.* 0.*above 0"),
        ('{"video_fps": 2, "video_target_frames": 8}', "video_fps and video_target_frames"),
        ('{"video_frames_sample": "last"}', "video_frames_sample.*'last'.*leading"),
        ('{"spatial_conv_size": 4}', "spatial_conv_size.* 4"),
        ('{"temporal_conv_size": null}', "temporal_conv_size None.*number"),
    ],
)
def test_one_wrong_value_of_the_preparation_of_media_refuses_them_all(value: str, words: str) -> None:
    with pytest.raises(StartError, match=f"mm_processor_kwargs has .*{words}"):
        _read(mm_processor_kwargs=value)


def test_settings_of_media_have_no_effect_on_a_model_that_reads_text() -> None:
    (notice,) = _read(mm_processor_kwargs='{"image_max_pixels": 10000}').notices
    assert "mm_processor_kwargs has no effect" in notice
    vision = replace(CONFIG, architecture="PaddleOCRVLForConditionalGeneration")
    assert read_settings({"model": "/m/x", "max_processor_cache": "1"}, vision).notices == ()


def test_a_context_beyond_the_model_s_is_lowered_with_a_notice() -> None:
    settings = _read(max_model_len="200000")
    assert settings.loading.max_model_len == 131072
    (notice,) = settings.notices
    assert re.search("max_model_len 200000 .*131072", notice)
    short = read_settings({"model": "/m/x"}, replace(CONFIG, max_position_embeddings=512))
    assert (short.loading.max_model_len, short.notices) == (512, ())


def test_wint4_on_a_dense_model_means_wint8_and_says_so() -> None:
    settings = _read(quantization="WINT4")
    assert settings.loading.quantization == "wint8"
    assert len(settings.notices) == 1
    assert "uses wint8" in settings.notices[0]


def test_activation_types_fit_the_weights() -> None:
    assert _read(activation_dtype="BFloat16").loading.activation_dtype is ActivationType.BFLOAT16
    for others, found in (
        ({"quantization": "wint8"}, "quantization is 'wint8'"),
        ({"dtype": "float32"}, "dtype is 'float32'"),
    ):
        with pytest.raises(StartError, match=f"bfloat16 .*{found}"):
            _read(activation_dtype="bfloat16", **others)


def test_activation_types_of_quantized_weights_have_no_effect_on_others_and_say_so() -> None:
    settings = _read(activation_dtype="int8")
    (notice,) = settings.notices
    assert re.search("activation_dtype int8 .*float32", notice)
    assert _read(activation_dtype="int8", quantization="wint8").notices == ()
    assert _read(activation_dtype="float32").notices == ()


def test_wint4_all_is_for_dense_models_too_and_for_cpus_only() -> None:
    settings = _read(quantization="wint4_all")
    assert (settings.loading.quantization, settings.notices) == ("wint4_all", ())
    with pytest.raises(StartError, match=r"wint4_all is for CPUs; device xpu .*; use wint4"):
        _read(quantization="wint4_all", device="xpu")


def test_wint4_on_a_model_with_experts_is_wint4() -> None:
    config = ModelConfig.from_directory(DENSE.parent / "moe")
    settings = read_settings({"model": "/m/x", "quantization": "WINT4"}, config)
    assert (settings.loading.quantization, settings.notices) == ("wint4", ())


def test_w4a8_is_what_a_checkpoint_brings() -> None:
    config = ModelConfig.from_directory(DENSE.parent / "moe_tp")
    parameters = {"model": "/m/x", "quantization": "w4a8"}
    with pytest.raises(StartError, match=r"w4a8 .*scales"):
        read_settings(parameters, config)
    assert read_settings({**parameters, "load_choices": "dummy"}, config).loading.quantization == "w4a8"
    stored = replace(config, quantization_config=QuantizationConfig("w4a8"))
    assert read_settings(parameters, stored).notices == ()


def test_ranks_divide_stored_int4_codes_between_bytes() -> None:
    config = ModelConfig.from_directory(DENSE.parent / "moe_tp")
    assert config.moe is not None
    odd = replace(config, moe=replace(config.moe, intermediate_size=510))
    parameters = {"model": "/m/x", "quantization": "wint4", "tensor_parallel_size": "2"}
    assert read_settings(parameters, odd).parallel.tensor_parallel_size == 2
    stored = replace(odd, quantization_config=QuantizationConfig("wint4"))
    with pytest.raises(StartError, match=r"255 blocks .*moe_intermediate_size"):
        read_settings(parameters, stored)


def test_config_json_wins_over_the_flags() -> None:
    config = replace(CONFIG, quantization_config=QuantizationConfig("wint8", has_cache_scales=True))
    settings = read_settings({"model": "/m/x", "quantization": "wint4", "kv_cache_dtype": "auto"}, config)
    assert (settings.loading.quantization, settings.cache.kv_cache_dtype) == ("wint8", "int8")
    (notice,) = settings.notices
    assert re.search("quantization wint4 .*wint8", notice)
    silent = read_settings({"model": "/m/x", "quantization": "none"}, config)
    assert (silent.loading.quantization, silent.notices) == ("wint8", ())


def test_the_device_is_the_card_that_is_there(tmp_path: Path) -> None:
    assert find_backend("auto", {}, tmp_path) == (CPU, None)
    backend, notice = find_backend("auto", {"XPU_VISIBLE_DEVICES": "0"}, tmp_path)
    assert backend is CPU
    assert notice is not None
    assert "XPU_VISIBLE_DEVICES" in notice
    assert find_backend("reference", {"XPU_VISIBLE_DEVICES": "0"}, tmp_path) == (REFERENCE, None)
    (tmp_path / "xpu0").touch()
    assert find_backend("auto", {"XPU_VISIBLE_DEVICES": "0"}, tmp_path) == (XPU, None)


def test_the_reference_device_needs_nothing_built() -> None:
    assert type(REFERENCE.create_ops(1)).__name__ == "ReferenceOps"


def test_only_the_cpu_s_kernels_depend_on_the_machine() -> None:
    assert {name: backend.kernels.partition(" ")[::2] for name, backend in BACKENDS.items()} == {
        "cpu": ("cpu", instruction_sets()[-1]),
        "xpu": ("xpu", ""),
        "reference": ("reference", ""),
    }


@pytest.mark.parametrize("backend", [CPU, REFERENCE])
def test_ops_on_the_host_choose_tokens_themselves(backend: Backend) -> None:
    ops = backend.create_ops(1)
    sampler: object = backend.token_sampler(ops)
    assert sampler is ops


def test_the_cpu_chooses_tokens_of_other_ops() -> None:
    assert type(XPU.token_sampler(REFERENCE.create_ops(1))).__name__ == "CpuOps"


@pytest.mark.parametrize(("limit", "cores"), [("max 100000", None), ("50000 100000", 1), ("100000 100000", 1)])
def test_a_cgroup_quota_limits_the_cores(tmp_path: Path, limit: str, cores: int | None) -> None:
    unlimited = usable_cores(tmp_path)
    directory = tmp_path / "sys" / "fs" / "cgroup"
    directory.mkdir(parents=True)
    (directory / "cpu.max").write_text(limit + "\n")
    assert usable_cores(tmp_path) == (cores or unlimited)


@pytest.mark.parametrize(
    ("device", "asked", "tokens"),
    [("cpu", "", 356), ("reference", "", 356), ("xpu", "", 2048), ("cpu", "4096", 4096), ("xpu", "64", 64)],
)
def test_a_step_is_short_on_a_cpu_unless_the_user_wants_it_longer(device: str, asked: str, tokens: int) -> None:
    settings = _read(device=device, max_num_seqs="100", max_num_batched_tokens=asked)
    assert settings.scheduler.max_num_batched_tokens == tokens


@pytest.mark.parametrize(("given", "port"), [("8189,8289", 8189), ("0", 8002), ("", 8002)])
def test_the_first_of_the_ports_counts_and_0_is_the_default(given: str, port: int) -> None:
    assert _read(engine_worker_queue_port=given).parallel.engine_worker_queue_port == port


def test_without_a_limit_requests_wait_as_long_as_it_takes() -> None:
    assert _read(max_waiting_time="-1").scheduler.max_waiting_time is None
    assert _read().scheduler.max_waiting_time is None


def test_a_long_prompt_has_more_than_4_percent_of_the_context() -> None:
    for given in ({}, {"long_prefill_token_threshold": "0"}):
        limits = _read(max_model_len="32768", **given).scheduler
        assert limits.long_prefill_token_threshold == 1310


@pytest.mark.parametrize("value", ["-1", "-1.0", " -1 "])
def test_minus_one_is_no_limit_of_the_waiting_time(value: str) -> None:
    assert _read(max_waiting_time=value).scheduler.max_waiting_time is None


@pytest.mark.parametrize(("value", "port"), [("9000,9001", 9000), ("0", 8002), (",9001", 8002), (" , ", 8002)])
def test_the_first_port_counts_and_an_empty_one_is_any(value: str, port: int) -> None:
    assert _read(engine_worker_queue_port=value).parallel.engine_worker_queue_port == port


def test_what_fastdeploy_lacks_is_refused_before_weights_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not where ops are composed, nor on other devices."""
    file: Path | None = Path("ops.so")
    monkeypatch.setattr("ernie_backend.devices.xpu_ops.fastdeploy_file", lambda: file)
    assert _read(device="xpu").cache.block_size == 64
    with pytest.raises(StartError, match=r"blocks of 64 tokens; block_size is 16; leave it out, or .*composed"):
        _read(device="xpu", block_size="16")
    with pytest.raises(
        StartError, match=r"static scales only; leave kv_cache_dtype out, .*--kv-cache c8, or .*composed"
    ):
        _read(device="xpu", kv_cache_dtype="int8")
    experts, ocr = (ModelConfig.from_directory(DATA / name) for name in ("moe", "paddleocr_vl"))
    spread = {"model": "/m/x", "device": "xpu", "tensor_parallel_size": "2", "enable_expert_parallel": "true"}
    with pytest.raises(StartError, match=r"all experts of a layer; leave --enable-expert-parallel out"):
        read_settings(spread, experts)
    read_settings({**spread, "tensor_parallel_size": "1"}, experts)
    read_settings(spread, CONFIG)  # a dense model, where it means nothing
    with pytest.raises(StartError, match=r"no int8 cache for rotary pairs .*leave kv_cache_dtype out"):
        read_settings({"model": "/m/x", "device": "xpu", "kv_cache_dtype": "int8"}, ocr)
    assert _read(device="cpu", block_size="16", kv_cache_dtype="int8").cache_dtype == "int8"
    file = None
    assert _read(device="xpu", block_size="16", kv_cache_dtype="int8").cache.block_size == 16
    assert read_settings(spread, experts).parallel.enable_expert_parallel


def test_an_xpu_computes_in_bfloat16() -> None:
    for quantization in ("", "wint8"):
        loading = _read(device="xpu", quantization=quantization).loading
        assert loading.activation_dtype is ActivationType.BFLOAT16
        assert not loading.has_int8_head
    assert _read(quantization="wint8").loading.has_int8_head
    with pytest.raises(StartError, match=r"activation_dtype 'int16' .*xpu.*bfloat16"):
        _read(device="xpu", activation_dtype="int16")
    with pytest.raises(StartError, match=r"dtype 'float32' .*xpu; use bfloat16"):
        _read(device="xpu", dtype="float32")
