"""The model that ``--model`` names, a directory or a hub id: its files on this machine and its public name."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from ernie_cli.errors import CommandError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_GENERIC_NAME = re.compile(r"weights?|models?|checkpoints?|snapshots?|[0-9a-f]{40}|\d+")
_CACHE_FOLDER = re.compile(r"models--.+?--(.+)")


@dataclass(frozen=True)
class ModelFiles:
    """The model on this machine.

    Attributes:
        directory: absolute.
        name: its public name, unless the user gives another.
    """

    directory: Path
    name: str

    @property
    def size_bytes(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.directory.iterdir() if path.is_file())

    @property
    def weights_bytes(self) -> int:
        """Bytes of its weights, those in the directories of ranks included."""
        patterns = "*.safetensors", "rank*/*.safetensors"
        return sum(path.stat().st_size for pattern in patterns for path in self.directory.glob(pattern))


def is_model_id(model: str) -> bool:
    """Return whether ``model`` has the form of a hub id."""
    return _ID.fullmatch(model) is not None


def find_model(model: str, revision: str | None = None, *, with_weights: bool = True) -> ModelFiles:
    """Return the model's files, downloaded if need be.

    Args:
        model: a directory or an id.
        revision: branch, tag or commit of a hub model.
        with_weights: False downloads no weights.

    Raises:
        CommandError: it is neither a model directory nor an id that can be downloaded.
    """
    path = Path(model).expanduser()
    if path.exists() or not is_model_id(model):
        return local_model(model)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the client is imported
    from ernie_cli.model.hub import download_model  # slow to import, and most starts do not need it

    sys.stderr.write(f"Model: {model} is not a directory: looking for it on the hub\n")
    directory = download_model(model, revision, with_weights=with_weights)
    sys.stderr.write(f"Model: {directory}\n")
    return ModelFiles(_checked(model, directory), model.partition("/")[2])


def local_model(model: str) -> ModelFiles:
    """Return a model on this machine.

    Raises:
        CommandError: it is not a directory, or holds no config.json.
    """
    path = Path(model).expanduser()
    if not path.exists():
        raise CommandError(
            f"--model {model} does not exist; check the path, or give a directory or an id like OWNER/NAME"
        )
    if not path.is_dir():
        raise CommandError(f"--model {model} is not a directory; give the directory of config.json")
    directory = _checked(model, path)
    return ModelFiles(directory, _public_name(directory))


def _checked(model: str, path: Path) -> Path:
    if not (path / "config.json").is_file():
        raise CommandError(f"--model {model} holds no config.json, so {path} is not a model directory")
    return path.resolve()


def _public_name(directory: Path) -> str:
    """Return the name of the nearest folder with a name of its own: not ``weights``, not a commit."""
    for folder in (directory, *directory.parents):
        if cached := _CACHE_FOLDER.fullmatch(folder.name):
            return cached[1]
        if folder.name and not _GENERIC_NAME.fullmatch(folder.name):
            return folder.name
    return directory.name
