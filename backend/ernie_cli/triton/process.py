"""The tritonserver of one ``serve``: its command, its address, and the lines about it for the user.

A client of Triton's gRPC or HTTP can run code as Triton's user: a request may bring the files of a model to
load. So gRPC is on a Unix socket that only this user reaches, and a port is open only on request.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ernie_cli.processes.ports import LOOPBACK
from ernie_cli.triton.bundled import bundled_command
from ernie_cli.triton.run_directory import RunDirectory

# Over HTTP inference, metadata, health and statistics remain. The other APIs require a header whose value holds
# a line feed, which ends every header: it cannot be sent, so it may stand in the command line, which is public.
_CLOSED_HTTP_APIS = (
    "--http-restricted-api=model-repository,shared-memory,trace,logging:closed-by-serve=never\nsent"
)
FIRST_FIXED = (2, 59, 1)
"""The first Triton without CVE-2025-23310, -23311, -23319, -23320 and -23334 (container 25.07)."""


@dataclass(frozen=True)
class TritonPorts:
    """The loopback ports that one tritonserver opens; None: closed, and gRPC on a Unix socket."""

    http: int | None = None
    grpc: int | None = None
    metrics: int | None = None


def triton_url(run: RunDirectory, ports: TritonPorts) -> str:
    """Return the address of a tritonserver's gRPC in gRPC's own notation, as ``--triton-url`` takes it."""
    if ports.grpc is not None:
        return f"{LOOPBACK}:{ports.grpc}"
    return f"unix:{quote(str(run.triton_socket), safe='/:')}"


def _listening(run: RunDirectory, ports: TritonPorts) -> list[str]:
    """Return the arguments that open the requested ports, and nothing else."""
    address, _, port = triton_url(run, ports).rpartition(":")
    arguments = [f"--grpc-address={address}", f"--grpc-port={port}"]
    for service, opened in (("http", ports.http), ("metrics", ports.metrics)):
        if opened is None:
            arguments.append(f"--allow-{service}=false")
        else:
            arguments += [f"--{service}-address={LOOPBACK}", f"--{service}-port={opened}"]
    return arguments if ports.http is None else [*arguments, _CLOSED_HTTP_APIS]


def triton_command(
    run: RunDirectory, ports: TritonPorts, installed: Path | None
) -> tuple[list[str], dict[str, str]]:
    """Return the command and environment of a tritonserver over the run directory's repository.

    Args:
        run: holds the repository and the socket, and names the shared memory.
        ports: that it opens.
        installed: a tritonserver of this machine; None: the bundled one.

    Raises:
        CommandError: there is no tritonserver.
    """
    arguments = [
        f"--model-repository={run.model_repository}",
        "--model-control-mode=explicit",
        *_listening(run, ports),
        f"--backend-config=python,shm-region-prefix-name={run.shared_memory_prefix}",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
        "--log-info=false",
        "--exit-timeout-secs=5",
        "--disable-auto-complete-config",  # it would start another stub for nothing and sleep a second
    ]
    if installed is None:
        return bundled_command(arguments)
    python_path = [str(run.write_python_path()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return [str(installed), *arguments], {**os.environ, "PYTHONPATH": ":".join(python_path)}


def triton_lines(version: str, installed: Path | None, ports: TritonPorts, *, has_keys: bool) -> Iterator[str]:
    """Yield the lines for the user about a running Triton: its version, and what it opens to others.

    Args:
        version: its own, for example 2.51.0.
        installed: as for ``triton_command``.
        ports: that it opens.
        has_keys: the OpenAI API requires a key.
    """
    is_old = tuple(map(int, re.findall(r"\d+", version)[:3])) < FIRST_FIXED
    named = f"{installed or 'bundled'}, version {version}" + (
        ", with published vulnerabilities" if is_old else ""
    )
    opened = [f"loopback port {port} ({service})" for service, port in vars(ports).items() if port]
    private = [] if ports.grpc else ["a Unix socket that only this user reaches (gRPC)"]
    yield f"Triton: {named}; {', '.join([*private, *opened])}"
    bypass = "; the API key does not guard it" if has_keys else ""
    if ports.grpc:
        yield (
            f"Notice: --triton-grpc-port: every user of this machine may load models through port {ports.grpc},"
            f" which runs code as this user{bypass}"
        )
    if ports.http:
        yield (
            "Notice: --triton-http-port: every user of this machine may use the model through port"
            f" {ports.http}{bypass}"
        )
    if opened and is_old:
        yield (
            f"Notice: a user who reaches a port of Triton {version} may exploit its vulnerabilities; a newer"
            " tritonserver on PATH is used instead (docs/security.md)"
        )
