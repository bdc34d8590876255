"""What a ``plan`` was asked: the model's sizes, the settings and the device.

This module must not know how memory is planned nor how a plan is printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ernie_backend.devices.backend import resolve_device
from ernie_backend.errors import StartError
from ernie_backend.memory.config_shape import read_shape
from ernie_backend.memory.devices import GIB, Device, cpu, p800
from ernie_backend.memory.plan_settings import PlanSettings
from ernie_backend.model_shape import ModelShape
from ernie_cli.errors import CommandError
from ernie_cli.model_source import local_model
from ernie_cli.presets.released import released_model
from ernie_cli.presets.rows import ROWS

_INTEGERS = ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "block_size", "tensor_parallel_size")


@dataclass(frozen=True)
class PlanRequest:
    """A question for a plan.

    Attributes:
        name: the model's.
        shape: its sizes.
        settings: of the service.
        device: that it should run on.
        assumed: what of the sizes could not be confirmed.
        notices: what the user should know about how his settings were read.
    """

    name: str
    shape: ModelShape
    settings: PlanSettings
    device: Device
    assumed: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


def plan_request(given: Mapping[str, str]) -> PlanRequest:
    """Return what the given flags ask; a row's options hold where no flag says otherwise.

    Raises:
        CommandError: the model is missing or unknown, or its config.json is no model's.
    """
    model = given.get("--model")
    if not model:
        raise CommandError(f"--model is missing; give a directory or one of: {', '.join(ROWS)}")
    row = ROWS.get(model)
    released = row.model if row else None if Path(model).expanduser().exists() else released_model(model)
    if released is not None:
        name, shape, assumed = released.name, released.shape, released.assumed
    else:
        name, shape, assumed = *_directory(model), ()
    notices: list[str] = []
    settings = _settings({**(row.options if row else {}), **given}, shape, notices)
    device = _device(given, is_released=released is not None)
    return PlanRequest(name, shape, settings, device, assumed, tuple(notices))


def _directory(model: str) -> tuple[str, ModelShape]:
    if not Path(model).expanduser().exists():
        raise CommandError(
            f"--model {model} is no directory, no released model and no row; rows are {', '.join(ROWS)}"
        )
    files = local_model(model)
    try:
        return files.name, read_shape(files.directory)
    except StartError as error:
        raise CommandError(error.message) from None


def _settings(given: Mapping[str, str], shape: ModelShape, notices: list[str]) -> PlanSettings:
    plain = PlanSettings()
    numbers = {name: int(given.get(_flag(name), getattr(plain, name))) for name in _INTEGERS}
    if numbers["max_model_len"] > shape.max_positions:
        notices.append(
            f"max_model_len {numbers['max_model_len']} is lowered to the model's "
            f"max_position_embeddings {shape.max_positions}"
        )
        numbers["max_model_len"] = shape.max_positions
    quantization = given.get("--quantization", "none").lower()
    stored = shape.stored_quantization
    if stored is not None and quantization not in ("none", stored.quantization):
        notices.append(f"quantization {quantization} is ignored: config.json says {stored.quantization}")
    elif quantization in ("wint4", "w4a8") and shape.experts is None:
        notices.append(
            f"quantization {quantization} quantizes experts; this dense model has none and uses wint8"
        )
        quantization = "wint8"
    blocks = given.get("--num-gpu-blocks-override")
    return PlanSettings(
        dtype=given.get("--dtype", plain.dtype),
        quantization=None if quantization == "none" else quantization,
        kv_cache_dtype=given.get("--kv-cache-dtype", plain.kv_cache_dtype),
        gpu_memory_utilization=float(given.get("--gpu-memory-utilization", plain.gpu_memory_utilization)),
        num_gpu_blocks_override=int(blocks) if blocks else None,
        enable_expert_parallel=given.get("--enable-expert-parallel") == "true",
        image_max_pixels=_image_max_pixels(given),
        **numbers,
    )


def _flag(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


def _image_max_pixels(given: Mapping[str, str]) -> int | None:
    pixels = json.loads(given.get("--mm-processor-kwargs", "{}")).get("image_max_pixels")
    if pixels is not None and (not isinstance(pixels, int) or pixels < 1):
        raise CommandError(f"--mm-processor-kwargs: image_max_pixels must be a whole number, found {pixels!r}")
    return pixels


def _device(given: Mapping[str, str], *, is_released: bool) -> Device:
    kind = given.get("--device", "auto")
    if kind == "auto":
        kind = "p800" if is_released or resolve_device("auto")[0] == "xpu" else "cpu"
    asked = given.get("--device-memory")
    memory = int(float(asked) * GIB) if asked else None
    return p800(memory) if kind == "p800" else cpu(memory)
