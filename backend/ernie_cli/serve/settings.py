"""The settings of one ``serve``: the values of its flags, sorted by what reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ernie_backend.settings.kinds import Switch
from ernie_cli.errors import CommandError
from ernie_cli.flags.flag import Passed
from ernie_cli.flags.parameters import engine_parameters
from ernie_cli.flags.service import DEFAULT_DRAIN_S, DEFAULT_HOST, DEFAULT_PORT
from ernie_cli.flags.table import FLAGS
from ernie_cli.triton.run_directory import entry_name
from ernie_frontend.cors import BadCorsFlags, read_cors
from ernie_frontend.media.flags import read_media_flags
from ernie_frontend.middleware.api_keys import NoKey, environment_keys, read_key_file, split_keys

_BY_SERVE = ("--host", "--port", "--served-model-name", "--timeout-graceful-shutdown")
"""Flags of the frontend that ``serve`` always writes itself."""


@dataclass(frozen=True)
class ServeSettings:
    """The settings of one ``serve``.

    Attributes:
        model: a model directory or an id, as given.
        host: address the OpenAI API listens on.
        port: its port; 0 takes a free one.
        served_model_name: the only name requests may give, or None.
        api_keys: keys of ``/v1`` that stay as they are; of the flag, else of the environment.
        api_key_file: file of further keys, or None.
        metrics_port: port of the frontend's metrics; None: the main port.
        triton_http_port, triton_grpc_port, triton_metrics_port: loopback ports of Triton; None opens none.
        engine: the engine settings that were given, by parameter name, as strings.
        frontend: further flags of the frontend that were given.
        name: public name of the model if ``served_model_name`` is None; None takes the model's own.
        revision: branch, tag or commit of a hub model.
        drain_s: seconds that answers in flight get at the end; 0: as long as they take.
        is_quiet: the output of Triton, engine and frontend goes to a file that the screen names.
    """

    model: str
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    served_model_name: str | None = None
    api_keys: tuple[str, ...] = ()
    api_key_file: Path | None = None
    metrics_port: int | None = None
    triton_http_port: int | None = None
    triton_grpc_port: int | None = None
    triton_metrics_port: int | None = None
    engine: Mapping[str, str] = field(default_factory=dict)
    frontend: tuple[str, ...] = ()
    name: str | None = None
    revision: str | None = None
    drain_s: int = DEFAULT_DRAIN_S
    is_quiet: bool = False

    @classmethod
    def from_flags(cls, given: Mapping[str, str]) -> ServeSettings:
        """Return the settings that the given flags make.

        Raises:
            CommandError: the model is missing, or a file that a flag names.
            UsageError: a flag of media is wrong.
        """
        if not given.get("--model"):
            raise CommandError("--model is missing; give a model's directory or an id like OWNER/NAME")
        return cls(
            model=given["--model"],
            host=given.get("--host", cls.host),
            port=int(given.get("--port", cls.port)),
            served_model_name=given.get("--served-model-name"),
            api_keys=api_keys(given),
            api_key_file=_api_key_file(given),
            metrics_port=_port(given, "--metrics-port"),
            triton_http_port=_port(given, "--triton-http-port"),
            triton_grpc_port=_port(given, "--triton-grpc-port"),
            triton_metrics_port=_port(given, "--triton-metrics-port"),
            engine=engine_parameters(given),
            frontend=_frontend_flags(given),
            revision=_revision(given),
            drain_s=int(given.get("--timeout-graceful-shutdown", cls.drain_s)),
        )

    @property
    def asks_for_keys(self) -> bool:
        """Whether the OpenAI API is open to those who have a key only."""
        return bool(self.api_keys) or self.api_key_file is not None

    def entry(self, model_name: str) -> str:
        """Return the name of the Triton entry that serves a model of this name."""
        return entry_name(self.served_model_name or self.name or model_name)


def api_keys(given: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys of the flag, else of the environment.

    Raises:
        CommandError: the one of the two that counts holds something, but no key.
    """
    try:
        keys = given.get("--api-key")
        return environment_keys(os.environ) if keys is None else split_keys(keys, "--api-key")
    except NoKey as error:
        raise CommandError(str(error)) from None


def _api_key_file(given: Mapping[str, str]) -> Path | None:
    """Return the path of the file of keys; there is one in it now."""
    if "--api-key-file" not in given:
        return None
    path = Path(given["--api-key-file"])
    try:
        read_key_file(path)
    except NoKey as error:
        raise CommandError(f"--api-key-file: {error}") from None
    return path


def _frontend_flags(given: Mapping[str, str]) -> tuple[str, ...]:
    _check_cors(given)
    read_media_flags(  # only checked: the frontend, which reads them too, starts after the model is loaded
        given.get("--allowed-media-domains"),
        given.get("--allowed-local-media-path"),
        allow_private="--allow-private-media" in given,
    )
    return tuple(
        name if isinstance(flag.kind, Switch) else f"{name}={value}"
        for name, value in given.items()
        if isinstance(effect := (flag := FLAGS[name]).effect, Passed)
        and effect.frontend
        and name not in _BY_SERVE
    )


def _check_cors(given: Mapping[str, str]) -> None:
    """Raise CommandError for what the frontend would refuse after the model has been loaded."""
    origins, methods, headers = (given.get(f"--allowed-{name}") for name in ("origins", "methods", "headers"))
    try:
        read_cors(origins, methods, headers, allow_credentials="--allow-credentials" in given)
    except BadCorsFlags as error:
        raise CommandError(str(error)) from None


def _port(given: Mapping[str, str], name: str) -> int | None:
    return int(given[name]) if name in given else None


def _revision(given: Mapping[str, str]) -> str | None:
    """Return the revision; ``master`` is FastDeploy's word for a hub's default."""
    revision = given.get("--revision")
    return None if revision == "master" else revision
