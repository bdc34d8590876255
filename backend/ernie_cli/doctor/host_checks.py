"""Checks of what every service needs: processor, memory, limits, ports, tritonserver, the model."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ernie_backend.devices.backend import CPU
from ernie_backend.devices.host import available_bytes, is_container, own_cgroups, total_bytes, usable_cores
from ernie_backend.planning.units import format_bytes
from ernie_cli.doctor.finding import Finding, fail, ok, warn
from ernie_cli.errors import CommandError
from ernie_cli.model.check import check_model
from ernie_cli.model.source import local_model
from ernie_cli.processes.ports import choose_ports
from ernie_cli.serve.preflight import check_system
from ernie_cli.triton.bundled import find_bundled_server, find_installed_server, shared_libpython_directory
from ernie_cli.triton.run_directory import ENOUGH_SHARED_MEMORY, SHARED_MEMORY, check_socket_path

_FAST_INSTRUCTIONS = ("avx2-vnni", "avx512")
_ENOUGH_MEMORY = 4 << 30
_ENOUGH_DESCRIPTORS = 4096


def check_host(port: int, host: str, model: str | None, parameters: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what was found out about this machine; each check stands alone.

    Args:
        port: of the API.
        host: address that it would listen on.
        model: directory to check; None: none.
        parameters: the engine's settings for it.
    """
    yield _processor()
    yield _memory()
    yield _shared_memory()
    yield _limits()
    yield _sockets()
    yield _port(port, host)
    yield _python()
    yield _tritonserver()
    if model is not None:
        yield _model(model, parameters)


def _processor() -> Finding:
    cores, all_cores = usable_cores(), os.cpu_count() or 1
    instructions = CPU.kernels.partition(" ")[2]
    found = f"{_processor_name()}, {cores} of {all_cores} cores usable, instruction set {instructions}"
    if instructions.startswith(_FAST_INSTRUCTIONS):
        return ok("processor", found)
    fix = "it works; a processor with AVX-512 is about twice as fast" if instructions == "avx2" else ""
    fix = fix or "use a processor with AVX2; ERNIE_CPU_ISA must not force a smaller one"
    return warn("processor", found, fix)


def _processor_name() -> str:
    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        rows = []
    names = (row.partition(":")[2].strip() for row in rows if row.startswith("model name"))
    return next(names, platform.machine())


def _memory() -> Finding:
    available, total = available_bytes(), total_bytes()
    limits = [limit for group in own_cgroups() if (limit := group.limit or total) < total]
    cgroup = f", cgroup's limit {format_bytes(min(limits))}" if limits else ""
    found = f"{format_bytes(available)} available of {format_bytes(total)}{cgroup}"
    if available >= _ENOUGH_MEMORY:
        return ok("memory", found)
    fix = "free memory or raise the limit; ernie-triton plan --model NAME tells what a model takes"
    return warn("memory", found, fix)


def _shared_memory(directory: Path = SHARED_MEMORY) -> Finding:
    in_container = "run the container with --shm-size 1g (Kubernetes: an emptyDir of medium Memory at /dev/shm)"
    fix = in_container if is_container() else f"mount -o remount,size=1g {directory}"
    if not os.access(directory, os.W_OK):
        return fail("shared memory", f"{directory} cannot be written", f"chmod 1777 {directory}, as root")
    usage = shutil.disk_usage(directory)
    found = f"{directory}: {format_bytes(usage.free)} free of {format_bytes(usage.total)}"
    if usage.free < ENOUGH_SHARED_MEMORY:
        return warn("shared memory", found, fix)
    return ok("shared memory", found)


def _limits() -> Finding:
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        check_system()
    except CommandError as error:
        return fail("limits", error.message, "raise the limit that the message names")
    found = f"{descriptors} open files"
    if descriptors < _ENOUGH_DESCRIPTORS:
        return warn("limits", found, f"ulimit -n {_ENOUGH_DESCRIPTORS}: every client takes one, and some spare")
    return ok("limits", found)


def _sockets() -> Finding:
    try:
        check_socket_path()
    except CommandError as error:
        return fail("temporary directory", error.message, "set TMPDIR to a short path on a local disk")
    return ok("temporary directory", "Triton's socket can be made")


def _port(port: int, host: str) -> Finding:
    try:
        choose_ports({"--port": (host, port)})
    except CommandError as error:
        return fail("port", error.message, "stop that process, or give serve another --port")
    return ok("port", f"{host}:{port} is free")


def _python() -> Finding:
    version = platform.python_version()
    try:
        directory = shared_libpython_directory()
    except CommandError as error:
        return fail(
            "Python", f"{version}: {error.message}", "install the package with libpython's shared library"
        )
    return ok("Python", f"{version}, libpython in {directory}")


def _tritonserver() -> Finding:
    installed = find_installed_server()
    if installed is not None:
        return ok("tritonserver", f"{installed}, on PATH")
    try:
        server = find_bundled_server()
    except CommandError as error:
        return fail("tritonserver", error.message, f"{sys.executable} -m pip install 'ernie-triton[triton]'")
    return ok("tritonserver", f"bundled, of nvidia-pytriton {server.version}")


def _model(model: str, parameters: Mapping[str, str]) -> Finding:
    try:
        files = local_model(model)
        check_model(files.directory, parameters)
    except CommandError as error:
        return fail("model", error.message, "see docs/plan.md and docs/operations.md, or choose another model")
    return ok("model", f"{files.directory}: {format_bytes(files.weights_bytes)} of weights, can be loaded here")
