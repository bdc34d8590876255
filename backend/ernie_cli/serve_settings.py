"""What one ``serve`` was told, and the checks that need no process: model directory and names.

This module must not know the engine's settings beyond their names, nor how anything is started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ernie_cli.errors import CommandError
from ernie_cli.run_directory import entry_name


@dataclass(frozen=True)
class ServeSettings:
    """The settings of one ``serve``.

    Attributes:
        model: the model directory as it was given.
        host: address the OpenAI API listens on.
        port: its port; 0 takes a free one.
        served_model_name: the only name requests may give, or None.
        api_keys: keys of ``/v1``; None leaves it to the environment.
        triton_http_port, triton_grpc_port, triton_metrics_port: None takes a free loopback port.
        engine: the engine settings that were given, by parameter name, as strings.
        name: public name of the model if ``served_model_name`` is None; None takes the directory's.
    """

    model: str
    host: str
    port: int
    served_model_name: str | None = None
    api_keys: tuple[str, ...] | None = None
    triton_http_port: int | None = None
    triton_grpc_port: int | None = None
    triton_metrics_port: int | None = None
    engine: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None

    def model_directory(self) -> Path:
        """Return the absolute model directory.

        Raises:
            CommandError: it is no directory, or holds no config.json.
        """
        path = Path(self.model).expanduser()
        if not path.exists():
            is_hub_id = self.model.count("/") == 1 and not self.model.startswith((".", "/", "~"))
            way_out = (
                "if it is a hub id: downloading is not supported yet, download it yourself and"
                if is_hub_id
                else "check the path, or"
            )
            raise CommandError(f"--model {self.model} does not exist; {way_out} give the model's directory")
        if not path.is_dir():
            raise CommandError(f"--model {self.model} is not a directory; give the directory of config.json")
        if not (path / "config.json").is_file():
            raise CommandError(f"--model {self.model} holds no config.json, so it is not a model directory")
        return path.resolve()

    def entry(self, directory: Path) -> str:
        """Return the name of the Triton entry that serves ``directory``."""
        return entry_name(self.served_model_name or self.name or directory.name)


def engine_parameters(**given: object) -> dict[str, str]:
    """Return the engine settings that were given, as the strings of a config.pbtxt; None is left out."""
    return {name: str(value) for name, value in given.items() if value is not None}
