"""Writes a quantized checkpoint: one file for the vocabulary and one for each layer, weight by weight.

A file has its name only when it is complete, and config.json comes last: an interrupted job goes on with the
next file, and what it left is never taken for a model.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_backend.config.architectures import ARCHITECTURES
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.quantization_config import QUANTIZATION_CONFIG
from ernie_backend.errors import StartError
from ernie_backend.quantization.calibration import (
    Calibration,
    CalibrationState,
    calibrate,
    read_state,
    write_state,
)
from ernie_backend.quantization.job import QuantizationJob
from ernie_backend.quantization.lock import LOCK_FILE, TargetLock
from ernie_backend.weights.checkpoints.files import INDEX
from ernie_backend.weights.checkpoints.prequantized import cache_scale_specs, quantized_tensors, stored_weights
from ernie_backend.weights.checkpoints.presharded import tensor_parts
from ernie_backend.weights.checkpoints.safetensors_reader import SafetensorsFile
from ernie_backend.weights.checkpoints.safetensors_writer import UNFINISHED, atomic_file, tensor_file
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.precision import Precision
from ernie_backend.weights.recipes import recipes
from ernie_backend.weights.roles import Role, WeightKey

Report = Callable[[str], None]
Tensors = Iterable[tuple[str, NDArray[np.generic]]]
_MEASURED = "calibration.safetensors"
_WEIGHTS = (".safetensors", ".pdparams", ".bin", ".pt", ".pth", ".gguf", ".index.json", UNFINISHED)
_WITHOUT_LAYER = (Role.EMBEDDING, Role.HEAD, Role.FINAL_NORM)


def quantize_checkpoint(job: QuantizationJob, report: Report) -> None:
    """Write the target of a job; ``report`` takes lines of progress.

    Raises:
        StartError: the job is impossible, the source lacks something or is damaged, another run is writing to
            the target, or it cannot be written.
    """
    config = ModelConfig.from_directory(job.source)
    job.check(config)
    try:
        with TargetLock(job.target, job.identity()) as lock:
            with CheckpointWeights.open(job.source, config, "float32", None) as weights:
                writer = _Writer(job, config, weights, report)
                writer.write(lambda: _calibration(job, config, weights, report))
            _copy_files(job)
            _write_config(job, config)
            (job.target / _MEASURED).unlink(missing_ok=True)
            lock.remove()
    except OSError as error:
        path = error.filename2 or error.filename or job.target
        raise StartError(
            f"{path} cannot be written or read: {error.strerror or error}; fix that, then the same "
            "command resumes"
        ) from error


def _calibration(
    job: QuantizationJob, config: ModelConfig, weights: CheckpointWeights, report: Report
) -> Calibration:
    if not job.needs_texts:
        return Calibration.empty(config)
    state_path = job.target / _MEASURED

    def save(state: CalibrationState) -> None:
        write_state(state_path, state)
        report(f"calibration: layer {state.layers} of {config.num_layers}, {len(state.hidden)} tokens")

    measured = calibrate(weights, config, job.texts, job.rotation, read_state(state_path), save)
    filled, notices = measured.filled()
    for notice in notices:
        report(f"notice: {notice}")
    return filled


class _Writer:
    """Writes the files with tensors, and their index; with ranks, a set for each."""

    def __init__(
        self,
        job: QuantizationJob,
        config: ModelConfig,
        weights: CheckpointWeights,
        report: Report,
    ) -> None:
        self._job = job
        self._config = config
        self._weights = weights
        self._measured = Calibration.empty(config)
        self._report = report
        self._recipes = recipes(config, ARCHITECTURES[config.architecture].layouts[-1])
        self._precision = Precision("bfloat16", job.config.quantization, config.tie_word_embeddings)
        self._stored = stored_weights(self._recipes, self._precision, (), is_expected=True)
        ranks = job.ranks
        self._parts = tensor_parts(self._recipes, self._stored, config, ranks) if ranks > 1 else {}

    def write(self, measure: Callable[[], Calibration]) -> None:
        """Write the missing files; measure only if there are any."""
        files = self._files()
        complete = {name for name, keys in files.items() if self._is_complete(name, keys)}
        if len(complete) < len(files):
            self._measured = measure()
        for number, (name, keys) in enumerate(files.items(), 1):
            started = time.monotonic()
            paths = [directory / name for directory in self._directories()]
            if name in complete:
                self._report(f"{number}/{len(files)} {name}: was complete")
                continue
            self._write_file(paths, keys)
            size = sum(path.stat().st_size for path in paths)
            self._report(
                f"{number}/{len(files)} {name}: {size / 2**20:,.1f} MiB, {time.monotonic() - started:.1f} s"
            )
        weight_map = {tensor: name for name, keys in files.items() for tensor in self._names(keys)}
        index = json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1)
        for directory in self._directories():
            (directory / INDEX).write_text(index)

    def _directories(self) -> list[Path]:
        target, ranks = self._job.target, self._job.ranks
        return [target] if ranks == 1 else [target / f"rank{rank}" for rank in range(ranks)]

    def _is_complete(self, name: str, keys: list[WeightKey]) -> bool:
        names = set(self._names(keys))
        return all(_holds(directory / name, names) for directory in self._directories())

    def _files(self) -> dict[str, list[WeightKey]]:
        """Return the weights of each file, in order."""
        groups: list[list[WeightKey]] = [[] for _ in range(1 + self._config.num_layers)]
        for key in self._recipes:
            groups[0 if _is_outside(key.role) else 1 + key.layer].append(key)
        count = len(groups)
        return {f"model-{i:05d}-of-{count:05d}.safetensors": keys for i, keys in enumerate(groups, 1)}

    def _names(self, keys: list[WeightKey]) -> Iterator[str]:
        for key in keys:
            tensors = self._stored[key].tensors if key in self._stored else self._recipes[key].tensors
            yield from (tensor.name for tensor in tensors)
        if self._job.config.has_cache_scales and not _is_outside(keys[0].role):
            yield from (spec.name for spec in cache_scale_specs(self._config, keys[0].layer))

    def _write_file(self, paths: list[Path], keys: list[WeightKey]) -> None:
        names = list(self._names(keys))
        with ExitStack() as stack:
            files = [stack.enter_context(tensor_file(path, names)) for path in paths]
            for name, tensor in self._tensors(keys):
                parts = self._parts.get(name)
                for rank, file in enumerate(files):
                    file.add(name, parts.part(tensor, rank) if parts else tensor)

    def _tensors(self, keys: list[WeightKey]) -> Tensors:
        for key in keys:
            yield from self._weight(key)
            self._weights.forget()
        if self._job.config.has_cache_scales and not _is_outside(keys[0].role):
            layer = keys[0].layer
            absmax = self._measured.keys[layer], self._measured.values[layer]
            for spec, values in zip(cache_scale_specs(self._config, layer), absmax, strict=True):
                yield spec.name, values

    def _weight(self, key: WeightKey) -> Tensors:
        values = self._weights.as_stored(*key)
        stored, recipe = self._stored.get(key), self._recipes[key]
        if stored is None:
            pieces = np.split(values, np.cumsum(recipe.heights)[:-1])
            for tensor, piece in zip(recipe.tensors, pieces, strict=True):
                yield tensor.name, piece.T if recipe.is_transposed else piece.reshape(tensor.shape)
            return
        of_role = {Role.EXPERT_GATE_UP: self._measured.gate_up, Role.EXPERT_DOWN: self._measured.down}
        absmax = of_role[key.role][key.layer, key.expert] if key.role in of_role else 0.0
        rotation = self._job.rotation if key.role is Role.EXPERT_DOWN else 0
        fmt = self._precision.format_of(key.role)
        yield from quantized_tensors(stored, fmt, values, float(absmax), rotation).items()


def _is_outside(role: Role) -> bool:
    """Whether a weight is in no layer of the decoder."""
    return role in _WITHOUT_LAYER or role.is_tower


def _holds(path: Path, names: set[str]) -> bool:
    """Whether a file has the tensors ``names``, all of each."""
    try:
        file = SafetensorsFile(path)
    except StartError:
        return False
    is_same = file.entries.keys() == names
    file.close()
    return is_same


def _copy_files(job: QuantizationJob) -> None:
    """Copy the files that are not weights: tokenizer, template, defaults of sampling."""
    for path in sorted(job.source.iterdir()):
        is_other = path.name in ("config.json", LOCK_FILE) or path.name.endswith(_WEIGHTS)
        if path.is_file() and not is_other:
            shutil.copyfile(path, job.target / path.name)


def _write_config(job: QuantizationJob, config: ModelConfig) -> None:
    """Write the source's config.json with what FastDeploy reads under other names."""
    fields: dict[str, Any] = json.loads((job.source / "config.json").read_text(encoding="utf-8"))
    fields["architectures"] = [ARCHITECTURES[config.architecture].paddle_name]
    fields.setdefault("rope_theta", config.rope_theta)
    fields.setdefault("torch_dtype", fields.get("dtype", "bfloat16"))
    fields[QUANTIZATION_CONFIG] = job.config.to_json()
    with atomic_file(job.target / "config.json") as file:
        file.write(json.dumps(fields, indent=1, ensure_ascii=False).encode())
