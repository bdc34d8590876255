"""What ``plan`` is asked: the model's sizes, the settings as the engine reads them, and the device."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ernie_backend.config.fields import ConfigFields
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.devices.backend import AUTO, BACKENDS, XPU, Backend, find_backend, planned_xpu
from ernie_backend.devices.device import GIB, Device
from ernie_backend.devices.host import available_bytes
from ernie_backend.parallel.layout import read_machines
from ernie_backend.planning.model_shape import ModelShape, read_shape, shape_of
from ernie_backend.settings.engine_settings import EngineSettings
from ernie_backend.settings.reader import read_settings
from ernie_cli.errors import CommandError
from ernie_cli.flags.parameters import engine_parameters
from ernie_cli.flags.plan import P800, SETTINGS
from ernie_cli.flags.table import FLAGS
from ernie_cli.model.source import local_model
from ernie_cli.presets.released import RELEASED, released_model
from ernie_cli.presets.rows import ROWS, Row

_READ = ("--model", *SETTINGS, "--load-choices", "--ips")
"""The engine's flags that a plan depends on."""


@dataclass(frozen=True)
class PlanRequest:
    """A model, the settings of a service, and a device.

    Attributes:
        name: of the model.
        shape: its sizes.
        settings: of the service.
        device: on which it runs.
        composed: the same device with the ops of the slow fallback, if ``device`` has better ones.
        assumed: the sizes that could not be confirmed.
        notices: how the settings were changed, and what they lack.
        serve_flags: of a row, those of the ``serve`` that it stands for, with values; of others none.
    """

    name: str
    shape: ModelShape
    settings: EngineSettings
    device: Device
    composed: Device | None = None
    assumed: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    serve_flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Model:
    """A model in a directory, or a released one of the presets, maybe with the options of its row."""

    name: str
    fields: ConfigFields
    directory: Path | None = None
    row: Row | None = None
    assumed: tuple[str, ...] = ()
    num_parts: int = 1


def plan_request(given: Mapping[str, str]) -> PlanRequest:
    """Return the request of some flags, which override the options of a row.

    Raises:
        CommandError: the model is missing or unknown.
        StartError: its config.json is invalid, or the engine would refuse a setting.
    """
    model, requested = _model(given.get("--model", "")), given
    if model.row is not None:
        given = {**model.row.options, **given}
    shape = replace(shape_of(model.fields), num_parts=model.num_parts)
    backend, notice = _backend(given, is_found=model.directory is not None)
    settings = _settings(given, shape.config, model, backend)
    if model.directory is not None:
        shape = read_shape(model.directory, is_dummy=settings.loading.is_dummy)
    memory = int(float(given["--device-memory"]) * GIB) if "--device-memory" in given else None
    device, composed = _devices(backend, memory, settings)
    return PlanRequest(
        model.name,
        shape,
        settings,
        device,
        composed,
        model.assumed,
        tuple(filter(None, (*_notices(settings, shape), notice))),
        _serve_flags(model.row, requested),
    )


def _model(name: str) -> _Model:
    if not name:
        raise CommandError(
            "--model is missing; give a directory, the id of a released model, or a row of the table in "
            f"docs/plan.md, such as {next(iter(ROWS))}"
        )
    is_here = Path(name).expanduser().exists()
    row = ROWS.get(name.lower())
    released = row.model if row else None if is_here else released_model(name)
    if released is not None:
        return _Model(released.name, released.config, None, row, released.assumed, released.num_parts)
    if not is_here:
        raise CommandError(f"--model {name} is not a directory, a released model or a row; {_nearest(name)}")
    files = local_model(name)
    return _Model(files.name, ConfigFields.read(files.directory / "config.json"), files.directory)


def _serve_flags(row: Row | None, given: Mapping[str, str]) -> dict[str, str]:
    """Return the flags of a row's command, and the given ones in their place, as far as ``serve`` has them."""
    if row is None:
        return {}
    changed = {
        name: value
        for name, value in {**given, "--model": row.hub_id}.items()
        if name in FLAGS and not FLAGS[name].is_secret and (name, value) != ("--device", P800)
    }
    return {"--model": row.hub_id, **row.options, **row.others, **changed}


def _nearest(name: str) -> str:
    known = {each.lower(): each for each in (*ROWS, *RELEASED)}
    near = difflib.get_close_matches(name.rpartition("/")[2].lower(), known, 3)
    return (f"near are {', '.join(known[each] for each in near)}; " if near else "") + "docs/plan.md lists them"


def _backend(given: Mapping[str, str], *, is_found: bool) -> tuple[Backend, str | None]:
    """Return the backend, and a notice or None; ``auto`` for a directory is the one found here."""
    requested, notice = given.get("--device", AUTO), None
    if requested == AUTO and is_found:
        backend, notice = find_backend(AUTO)
    else:
        backend = XPU if requested in (AUTO, P800) else BACKENDS[requested]
    return (planned_xpu() if backend is XPU else backend), notice


def _settings(given: Mapping[str, str], config: ModelConfig, model: _Model, backend: Backend) -> EngineSettings:
    parameters = {
        **engine_parameters({name: value for name, value in given.items() if name in _READ}),
        "model": str(model.directory or model.name),
        "device": backend.name,
    }
    if model.directory is None:  # no checkpoint that could lack something
        parameters["load_choices"] = "dummy"
    return read_settings(parameters, config, backend)


def _devices(backend: Backend, memory: int | None, settings: EngineSettings) -> tuple[Device, Device | None]:
    """Return the device as the engine knows it, and with the ops of the slow fallback, if it has better ones.

    Ranks on CPUs have the memory of all machines.
    """
    host = available_bytes() if memory is None else memory
    machines, _ = read_machines(settings.parallel)
    if memory is None:  # of the cards in this machine, if there are any
        memory = backend.free_bytes(settings.parallel.tensor_parallel_size)
    device = backend.planned_device(host * max(1, len(machines)), memory)
    fallback = None if backend.fallback_device is None else backend.fallback_device(memory)
    return device, None if fallback == device else fallback


def _notices(settings: EngineSettings, shape: ModelShape) -> tuple[str, ...]:
    notices = list(settings.notices)
    if settings.loading.quantization == "w4a8" and shape.config.quantization_config is None:
        notices.append(
            "quantization w4a8 needs a checkpoint with scales of activations; ernie-triton quantize makes one"
        )
    return tuple(notices)
