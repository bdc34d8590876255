"""The files of one checkpoint: a single ``.safetensors`` file, or shards named by an index."""

from __future__ import annotations

from collections.abc import KeysView, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ernie_backend.config.fields import read_json_object
from ernie_backend.errors import StartError
from ernie_backend.weights.checkpoints.safetensors_reader import SafetensorsFile

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def checkpoint_files(directory: Path) -> list[Path]:
    """Return the files that a model's weights come from: config.json, all shards and indexes, of all ranks."""
    shards = [path for folder in (".", "rank*") for path in directory.glob(f"{folder}/*.safetensors*")]
    return [*shards, directory / "config.json"]


class Checkpoint:
    """All tensors of a model directory, by name.

    Attributes:
        directory: where the files are.
    """

    def __init__(self, directory: Path, files: Mapping[str, SafetensorsFile]) -> None:
        self.directory = directory
        self._files = files

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Map the files of ``directory``.

        Raises:
            StartError: there are no weights, or the index or a file is missing or damaged.
        """
        index = directory / INDEX
        if index.is_file():
            return cls(directory, _open_shards(index))
        if (directory / SINGLE).is_file():
            file = SafetensorsFile(directory / SINGLE)
            return cls(directory, dict.fromkeys(file.entries, file))
        for older in sorted(directory.glob("*.pdparams")):
            raise StartError(
                f"{older} is in Paddle's older format, which is not read; write what paddle.load makes of it "
                f"to {SINGLE} by safetensors.paddle.save_file"
            )
        raise StartError(f"{directory} holds neither {SINGLE} nor {INDEX}; give a directory with weights")

    @property
    def names(self) -> KeysView[str]:
        """Names of all tensors."""
        return self._files.keys()

    def file_of(self, name: str) -> Path:
        """Return the file that holds a tensor."""
        return self._files[name].path

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape as stored."""
        return self._files[name].entries[name].shape

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise StartError unless a tensor has the shape that the model requires."""
        stored = self.shape(name)
        if stored != shape:
            raise StartError(
                f"{self.file_of(name)}: tensor {name} has shape {list(stored)}; "
                f"config.json requires {list(shape)}"
            )

    def tensor(self, name: str) -> NDArray[np.generic]:
        """Return a read-only view of a tensor as stored; bfloat16 as uint16 bits."""
        return self._files[name].tensor(name)

    def forget(self) -> None:
        """Release the pages that were read."""
        for file in set(self._files.values()):
            file.forget()

    def close(self) -> None:
        """Close all files."""
        for file in set(self._files.values()):
            file.close()


def _open_shards(index: Path) -> dict[str, SafetensorsFile]:
    shard_of = _read_index(index)
    shards: dict[str, SafetensorsFile] = {}
    try:
        for shard in sorted(set(shard_of.values())):
            shards[shard] = _open_shard(index.parent / shard)
        _check_contents(shards, shard_of)
    except StartError:
        for file in shards.values():
            file.close()
        raise
    return {name: shards[shard] for name, shard in shard_of.items()}


def _open_shard(path: Path) -> SafetensorsFile:
    if not path.is_file():
        raise StartError(f"{path} is missing; {INDEX} names it")
    return SafetensorsFile(path)


def _check_contents(shards: Mapping[str, SafetensorsFile], shard_of: Mapping[str, str]) -> None:
    for name, shard in shard_of.items():
        if name not in shards[shard].entries:
            raise StartError(f"{shards[shard].path} does not hold tensor {name}; {INDEX} says it does")


def _read_index(index: Path) -> dict[str, str]:
    shard_of = read_json_object(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise StartError(f"{index} has no weight_map of tensor names and files")
    for name, shard in shard_of.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise StartError(f"{index}: tensor {name} is mapped to {shard!r}, which is not a file name")
    return shard_of
