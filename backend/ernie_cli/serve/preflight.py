"""What ``serve`` checks before it starts anything that takes long: limits of the system, and ports."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from ernie_cli.errors import CommandError
from ernie_cli.processes.ports import LOOPBACK, choose_ports
from ernie_cli.serve.settings import ServeSettings
from ernie_cli.triton.process import TritonPorts
from ernie_cli.triton.run_directory import ENOUGH_SHARED_MEMORY, SHARED_MEMORY, check_socket_path
from ernie_wire.messages import MAX_MEDIA_BYTES

_MIN_DESCRIPTORS = 256
"""Of each process; the frontend needs the most, for its connections."""
_MIN_ADDRESS_SPACE = 2 << 30
"""Of each process; Triton needs the most: 1.5 GiB under 64 streams on 2 cores; with 1.3 a load hangs."""
_WAYS_OUT = {
    errno.ENOSPC: "make room in the temporary directory, or set TMPDIR to another one",
    errno.EDQUOT: "make room in the temporary directory, or set TMPDIR to another one",
    errno.ENOMEM: "free memory, or raise its limit (ulimit -v)",
    errno.EAGAIN: "raise the limit of processes (ulimit -u)",
}


def check_system() -> None:
    """Check the limits of this process and the temporary directory; raise the limit of open files if needed.

    Raises:
        CommandError: ``serve`` cannot run here.
    """
    _check_descriptor_limit()
    _check_address_space()
    check_temporary_directory()


def choose_service_ports(settings: ServeSettings) -> tuple[int, TritonPorts]:
    """Return the port of the API, a free one if the user left the choice, and the ports of Triton.

    Raises:
        CommandError: a port is taken, or two flags give the same; or Triton's socket cannot be made.
    """
    ports = TritonPorts(settings.triton_http_port, settings.triton_grpc_port, settings.triton_metrics_port)
    if ports.grpc is None:
        check_socket_path()
    requested = {"--port": (settings.host, settings.port)}
    for service, port in vars(ports).items():
        if port is not None:
            requested[f"--triton-{service}-port"] = (LOOPBACK, port)
    if settings.metrics_port not in (None, settings.port):
        requested["--metrics-port"] = (settings.host, settings.metrics_port or 0)
    return choose_ports(requested)[0], ports


def system_error(error: OSError) -> CommandError:
    """Return the error of a command that the system refused something."""
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    way_out = _WAYS_OUT.get(error.errno or 0)
    return CommandError(f"the system refuses: {what}" + (f"; {way_out}" if way_out else ""))


def check_temporary_directory() -> None:
    """Check that ``tempfile`` uses ``TMPDIR``; it would silently take another directory.

    Raises:
        CommandError: it does not.
    """
    requested = os.environ.get("TMPDIR")
    if requested and os.path.realpath(tempfile.gettempdir()) != os.path.realpath(requested):
        raise CommandError(f"TMPDIR is {requested}, which is not a writable directory; set it to another one")


def shared_memory_notice(modalities: Collection[str], directory: Path = SHARED_MEMORY) -> Iterator[str]:
    """Yield a line if the files of requests with media, which pass through shared memory, may not fit there."""
    free = shutil.disk_usage(directory).free
    if len(modalities) > 1 and free < ENOUGH_SHARED_MEMORY:
        yield (
            f"Notice: {directory} has {free >> 20} MiB free; a request's images and videos take up to "
            f"{MAX_MEDIA_BYTES >> 20} MiB of it on their way through Triton; without room they get 503: "
            "docker run --shm-size 1g"
        )


def _check_descriptor_limit() -> None:
    # A process that reaches the limit can fail anywhere: in libraries that abort, and while it cleans up.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _MIN_DESCRIPTORS:
        raise CommandError(
            f"the limit of open files is {hard}; serve needs at least {_MIN_DESCRIPTORS} (ulimit -n)"
        )
    if soft != resource.RLIM_INFINITY and soft < _MIN_DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_MIN_DESCRIPTORS, hard))


def _check_address_space() -> None:
    # Short of it, Triton aborts, or waits for a thread that it lacks. The engine checks what the weights need.
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _MIN_ADDRESS_SPACE:
        raise CommandError(
            f"the limit of address space is {limit >> 20} MiB for a process; serve needs at least"
            f" {_MIN_ADDRESS_SPACE >> 20} MiB, and what the weights take (ulimit -v)"
        )
