"""A model entry as Triton passes it: its parameters, which are the engine's settings, and its weights."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODEL_ROOT_VARIABLE = "ERNIE_MODEL_ROOT"


class EntryError(Exception):
    """The entry's config.pbtxt cannot be served; the message is one clear line."""


@dataclass(frozen=True)
class Entry:
    """One entry of the model repository.

    Attributes:
        name: the entry's name, which clients give as the model name.
        directory: the entry's directory.
        parameters: its parameters in config.pbtxt, all strings.
    """

    name: str
    directory: Path
    parameters: Mapping[str, str]

    @classmethod
    def from_triton(cls, arguments: Mapping[str, str]) -> Entry:
        """Return the entry in the arguments of ``TritonPythonModel.initialize``."""
        config = json.loads(arguments["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        return cls(arguments["model_name"], Path(arguments["model_repository"]), parameters)

    @property
    def engine_python(self) -> str:
        """The interpreter of the engine process: parameter ``engine_python``, else the stub's own.

        Raises:
            EntryError: neither is known.
        """
        python = self.parameters.get("engine_python") or sys.executable
        if not python:
            raise EntryError(
                f"{self.name}: this Triton's Python does not report its interpreter; set the parameter "
                "engine_python in config.pbtxt"
            )
        return python

    def weights(self, environment: Mapping[str, str] = os.environ) -> Path | None:
        """Return the absolute directory of the weights, or None: then the entry is unconfigured.

        It is the parameter ``model`` (absolute, or relative to the entry's directory), else
        ``$ERNIE_MODEL_ROOT/<entry>`` if there is such a directory.

        Raises:
            EntryError: ``model`` names something that is not a directory.
        """
        model = self.parameters.get("model", "")
        if model:
            path = (self.directory / model).resolve()
            if not path.is_dir():
                raise EntryError(
                    f"{self.name}: parameter model is {model!r}, but {path} is not a directory; it must be "
                    "the directory of config.json and the weights"
                )
            return path
        root = environment.get(MODEL_ROOT_VARIABLE)
        if root and Path(root, self.name).is_dir():
            return Path(root, self.name).resolve()
        return None

    def missing_weights(self, environment: Mapping[str, str] = os.environ) -> str:
        """Return what an unconfigured entry lacks, and the three ways to fix it."""
        root = environment.get(MODEL_ROOT_VARIABLE)
        looked = f"{Path(root, self.name)} is not a directory" if root else f"{MODEL_ROOT_VARIABLE} is not set"
        return (
            f"{self.name} has no weights: its parameter model is empty and {looked}; set the parameter model "
            f"in {self.directory / 'config.pbtxt'}, or put the weights into "
            f"${MODEL_ROOT_VARIABLE}/{self.name}, or start with ernie-triton serve --model DIRECTORY"
        )

    def engine_settings(self, weights: Path) -> dict[str, str]:
        """Return the settings for the engine process: the parameters, with ``model`` made absolute."""
        settings = {key: value for key, value in self.parameters.items() if key != "engine_python"}
        return {**settings, "model": str(weights)}
