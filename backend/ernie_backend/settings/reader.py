"""Reads the engine's settings from the parameters of the model's entry, all of them strings.

First each value by its kind, then what depends on the model's config, on the device or on another setting.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ernie_backend.config.architectures import ARCHITECTURES
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.devices.backend import AUTO, Backend, find_backend
from ernie_backend.errors import StartError
from ernie_backend.settings.engine_settings import SETTINGS, EngineSettings
from ernie_backend.weights.precision import OF_EXPERTS, check_activation_setting
from ernie_backend.weights.sharding import check_split, expert_block
from ernie_kernels.formats import ACTIVATION_LEVELS, ActivationType
from ernie_kernels.needs import Needs


def read_settings(
    parameters: Mapping[str, str], config: ModelConfig, backend: Backend | None = None
) -> EngineSettings:
    """Return the settings in an entry's parameters; absent or empty ones take their defaults.

    Parameters that are not the engine's are the stub's or the frontend's, and are left alone.

    Args:
        parameters: the entry's.
        config: the model's.
        backend: what computes; None: what the parameter ``device`` names on this machine.

    Raises:
        StartError: a value is outside its limits, or the backend lacks what it needs; names the parameter, the
            value and the limit.
    """
    directory = model_directory(parameters)
    given = _given(parameters)
    notices: list[str] = []
    settings = EngineSettings(directory, served_model_name=directory.name).replaced(**given)
    backend = backend or find_backend(settings.device)[0]
    settings = settings.replaced(**_model_values(given, settings, config, backend, notices))
    settings = settings.replaced(**_derived_defaults(given, settings, backend))
    block = expert_block(config.quantization_config, settings.loading.quantization)
    check_split(config, settings.parallel.shard(config), block)
    _check_kernels(settings, config, backend)
    return settings.replaced(notices=tuple(notices))


def model_directory(parameters: Mapping[str, str]) -> Path:
    """Return the directory of the checkpoint; raises StartError if it is not given."""
    if not parameters.get("model"):
        raise StartError("parameter model is missing; give the directory of a checkpoint")
    return Path(parameters["model"])


def _given(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the parameters that are given, each read by its kind."""
    values: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        text = parameters.get(name, "").strip()
        if text:
            try:
                values[name] = setting.kind.read(text)
            except ValueError as error:
                raise StartError(f"{name} {error}") from None
    return values


def _model_values(
    given: Mapping[str, Any],
    settings: EngineSettings,
    config: ModelConfig,
    backend: Backend,
    notices: list[str],
) -> dict[str, Any]:
    """Return the settings on which the model has a say."""
    stored, limit = config.quantization_config, config.max_position_embeddings
    length, quantization = settings.loading.max_model_len, _quantization(settings, config, notices)
    if "max_model_len" in given and length > limit:
        notices.append(f"max_model_len {length} is lowered to the model's max_position_embeddings {limit}")
    if quantization == "wint4_all" and not backend.has_grouped_int4:
        raise StartError(
            f"quantization wint4_all is for CPUs; device {backend.name} has no kernel for int4 in groups of "
            "inputs; use wint4 or wint8, with a checkpoint that is not quantized or quantized so"
        )
    values: dict[str, Any] = {"max_model_len": min(length, limit), "quantization": quantization}
    if stored is not None and stored.has_cache_scales:
        values["kv_cache_dtype"] = "int8"
    if ARCHITECTURES[config.architecture].tower is None:
        unused = [name for name in vars(settings.media) if name in given]
        notices += [f"{name} has no effect: {config.architecture} reads only text" for name in unused]
    activation = _activation(given, settings, quantization, backend)
    is_chosen = given.get("activation_dtype", AUTO) != AUTO
    if quantization is None and is_chosen and activation.value in ACTIVATION_LEVELS:
        notices.append(f"activation_dtype {activation.value} is for quantized weights; these see float32")
    return {**values, "activation_dtype": activation}


def _check_kernels(settings: EngineSettings, config: ModelConfig, backend: Backend) -> None:
    """Check that the kernels take such a service: before weights are loaded, which takes minutes."""
    stored, shard = config.quantization_config, settings.parallel.shard(config)
    reason = backend.why_refused(
        Needs(
            block_size=settings.cache.block_size,
            cache_dtype=settings.cache_dtype,
            has_cache_scales=stored is not None and stored.has_cache_scales,
            is_interleaved=ARCHITECTURES[config.architecture].is_interleaved,
            spreads_experts=shard.is_expert_parallel and shard.size > 1,
        )
    )
    if reason is not None:
        raise StartError(reason)


def _activation(
    given: Mapping[str, Any], settings: EngineSettings, quantization: str | None, backend: Backend
) -> ActivationType:
    """Return how activations are rounded: as the user chose, else as the device does by default."""
    requested = given.get("activation_dtype", AUTO)
    activation = backend.default_activation(quantization) if requested == AUTO else ActivationType(requested)
    if activation not in backend.activations:
        possible = ", ".join(each.value for each in backend.activations)
        raise StartError(
            f"activation_dtype {activation.value!r} is not for device {backend.name}, which computes with "
            f"{possible}; leave it out"
        )
    dtype = settings.loading.dtype
    if backend.activations == (ActivationType.BFLOAT16,):
        if dtype != "bfloat16":
            raise StartError(f"dtype {dtype!r} is not for device {backend.name}; use bfloat16")
    else:
        check_activation_setting(activation, dtype, quantization)
    return activation


def _quantization(settings: EngineSettings, config: ModelConfig, notices: list[str]) -> str | None:
    requested = settings.loading.quantization
    if config.quantization_config is not None:
        stored = config.quantization_config.quantization
        if requested not in (None, stored):
            notices.append(f"quantization {requested} is ignored: config.json says the weights are {stored}")
        return stored
    if requested in OF_EXPERTS and config.moe is None:
        notices.append(
            f"quantization {requested} quantizes experts; this dense model has none and uses wint8; wint4_all "
            "makes all its layers int4"
        )
        return "wint8"
    if requested == "w4a8" and not settings.loading.is_dummy:
        raise StartError(
            "quantization w4a8 needs scales of activations, and this checkpoint has none; make one that has by "
            "ernie-triton quantize --quantization w4a8, or choose wint4"
        )
    return requested


def _derived_defaults(given: Mapping[str, Any], settings: EngineSettings, backend: Backend) -> dict[str, Any]:
    """Return the settings that follow from others, from the device or from the environment."""
    values: dict[str, Any] = {"has_int8_head": backend.has_int8_head}
    limits = settings.scheduler
    if "max_num_batched_tokens" not in given:
        values["max_num_batched_tokens"] = backend.step_tokens(limits.max_num_seqs)
    if "max_long_partial_prefills" not in given:
        values["max_long_partial_prefills"] = limits.max_num_partial_prefills
    if not limits.long_prefill_token_threshold:
        values["long_prefill_token_threshold"] = settings.loading.max_model_len * 4 // 100
    if not settings.parallel.engine_worker_queue_port:
        values["engine_worker_queue_port"] = SETTINGS["engine_worker_queue_port"].default
    if "weight_cache" not in given:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        values["weight_cache"] = caches.expanduser() / "ernie-triton" / "weights"
    elif given["weight_cache"] is not None:
        values["weight_cache"] = Path(given["weight_cache"]).expanduser()
    return values
