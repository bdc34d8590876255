"""``serve``: a tritonserver with one model and an OpenAI frontend, started, watched and ended together.

    flags -> ports -> model files -> tritonserver -> load the model -> frontend -> time table -> "Launching ..."

Ends are in the opposite order. On a machine of ``--ips`` that is not the first, ranks are run instead. What
goes wrong until then ends the command; what goes wrong later is mended (``recovery.py``), unless that happens
too often. The sentence of what ends it is the last thing printed and the exit status is 1; a signal ends
everything with status 0. This module must not know the engine or HTTP requests.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ernie_backend.service.stages import Stages, process_age_s
from ernie_cli.errors import CommandError
from ernie_cli.model.check import check_model
from ernie_cli.model.source import ModelFiles, find_model
from ernie_cli.processes.child import Child
from ernie_cli.processes.ports import LOOPBACK, choose_ports
from ernie_cli.processes.supervisor import STOP_GRACE_S, StopRequested, Supervisor
from ernie_cli.serve import startup_table
from ernie_cli.serve.frontend import base_url, frontend_command, wait_until_healthy
from ernie_cli.serve.oom_report import OomReport
from ernie_cli.serve.recovery import FrontendRecovery, TritonRecovery, recover_all
from ernie_cli.serve.settings import ServeSettings
from ernie_cli.serve.worker_host import keep_ranks
from ernie_cli.triton.bundled import find_installed_server
from ernie_cli.triton.model_control import TritonModel
from ernie_cli.triton.process import TritonPorts, triton_command, triton_lines, triton_url
from ernie_cli.triton.run_directory import (
    RunDirectory,
    check_socket_path,
    check_temporary_directory,
    remove_abandoned,
)
from ernie_frontend.log_output import LogOutput, log_to_standard_error, print_line, standard_error

WhenReady = Callable[[str], Awaitable[bool]]
"""Called with the API's base URL once it answers; returns whether to go on serving."""
_LOG_LINES = 20
_LEAST_DESCRIPTORS = 256
"""Of each process; the frontend needs the most, for its connections."""
_LEAST_ADDRESS_SPACE = 2 << 30
"""Of each process; Triton needs the most: 1.5 GiB under 64 streams on 2 cores; with 1.3 a load hangs."""


def run_until_stopped(settings: ServeSettings, when_ready: WhenReady) -> None:
    """Serve until a signal comes or ``when_ready`` returns False.

    Raises:
        CommandError: something could not be started, or ended.
    """
    log_to_standard_error(logging.WARNING)
    try:
        _run_until_stopped(settings, when_ready)
    except OSError as error:
        raise CommandError(_of_system(error)) from error


def _run_until_stopped(settings: ServeSettings, when_ready: WhenReady) -> None:
    stages = Stages("command line")
    _check_descriptor_limit()
    _check_memory_limit()
    check_temporary_directory()
    with stages.stage("ports"):
        _choose_ports(settings)  # a taken one is told before anything long
    with stages.stage("model files") as reading:
        has_random_weights = settings.engine.get("load_choices") == "dummy"
        model = find_model(settings.model, settings.revision, with_weights=not has_random_weights)
        layout = check_model(model.directory, settings.engine)
        reading.size_bytes = model.size_bytes
    memory = OomReport()
    try:
        if layout.has_rank_0:
            port, triton_ports = _choose_ports(settings)
            asyncio.run(_Serving(settings, model, port, triton_ports, stages).run(when_ready))
        else:
            asyncio.run(keep_ranks(layout, {"model": str(model.directory), **settings.engine}))
    except StopRequested:
        standard_error().write("Stopped.\n")
    except CommandError as error:
        if not settings.is_quiet:
            error.last_lines = ()  # they have been shown
        if error.exit_signal != signal.SIGKILL:
            raise
        raise error.with_message(f"{error.message}; {memory.on_kill(model.weights_bytes)}") from None


class _Serving:
    """One ``serve`` from its start to its end."""

    def __init__(
        self, settings: ServeSettings, model: ModelFiles, port: int, triton_ports: TritonPorts, stages: Stages
    ) -> None:
        self._settings = settings
        self._model = model
        self._port = port
        self._triton_ports = triton_ports
        self._stages = stages
        self._entry = settings.entry(model.name)
        self._url = base_url(settings.host, port)

    async def run(self, when_ready: WhenReady) -> None:
        remove_abandoned()
        with RunDirectory() as directory, _output(directory, self._settings.is_quiet) as output:
            parameters = {"model": str(self._model.directory), "engine_python": sys.executable}
            directory.write_entry(self._entry, {**parameters, **self._settings.engine})
            async with Supervisor(output) as supervisor:
                model = TritonModel(triton_url(directory, self._triton_ports), self._entry)
                try:
                    triton = await self._start_triton(supervisor, directory, model)
                    frontend = await self._start_frontend(supervisor, directory)
                    supervisor.stop_notice = self._stop_notice()
                    self._print_times()
                    if await supervisor.run(_as_coroutine(when_ready(self._url))):
                        recoveries = recover_all(triton, FrontendRecovery(supervisor, frontend, self._url))
                        await supervisor.run(recoveries, children_may_end=True)
                finally:
                    await model.close()

    def _stop_notice(self) -> str:
        drain_s = self._settings.drain_s
        limit = f"{drain_s} s at most" if drain_s else "as long as they take"
        return f"Stopping: answers under way get {limit}; a second Ctrl-C or signal ends at once."

    def _print_times(self) -> None:
        total_s = process_age_s()
        if self._settings.is_quiet:
            print_line(f"Ready after {total_s:.1f} s.")
            return
        for line in startup_table.table(self._stages.list, total_s):
            print_line(line)

    async def _start_triton(
        self, supervisor: Supervisor, directory: RunDirectory, model: TritonModel
    ) -> TritonRecovery:
        installed = find_installed_server()
        with self._stages.stage("tritonserver"):
            command, environment = triton_command(directory, self._triton_ports, installed)
            child = await supervisor.start("tritonserver", command, environment)
            version = await self._version(supervisor, model, installed)
        for line in triton_lines(version, installed, self._triton_ports, has_keys=self._settings.asks_for_keys):
            print_line(line)
        triton = TritonRecovery(supervisor, directory, model, child)
        with self._stages.stage("model"):
            await supervisor.run(triton.load(), children_may_end=True)
            description = await supervisor.run(model.engine_description())
        load = self._stages.list.pop()
        self._stages.list += startup_table.with_engine_stages(load, description)
        return triton

    async def _version(self, supervisor: Supervisor, model: TritonModel, installed: Path | None) -> str:
        """Wait until Triton is live; return its version."""
        try:
            return await supervisor.run(model.wait_until_live())
        except CommandError as error:
            if installed is None or self._triton_ports.grpc:
                raise
            way_out = (
                f"if {installed} cannot listen on a Unix socket, --triton-grpc-port N opens a port instead"
            )
            raise error.with_message(f"{error.message}; {way_out}") from None

    async def _start_frontend(self, supervisor: Supervisor, directory: RunDirectory) -> Child:
        with self._stages.stage("OpenAI frontend"):
            url = triton_url(directory, self._triton_ports)
            command, environment = frontend_command(
                self._settings, self._port, url, self._entry, directory.path
            )
            drain_s = self._settings.drain_s
            grace_s = drain_s + STOP_GRACE_S if drain_s else None
            child = await supervisor.start("the OpenAI frontend", command, environment, grace_s)
            await supervisor.run(wait_until_healthy(self._url))
        return child


def _check_descriptor_limit() -> None:
    """Raise the limit of open files as far as the processes need it.

    A process that reaches the limit can fail anywhere, in libraries that abort and while it cleans up too.

    Raises:
        CommandError: it may not be raised that far.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _LEAST_DESCRIPTORS:
        raise CommandError(
            f"the limit of open files is {hard}; serve needs {_LEAST_DESCRIPTORS} at least (ulimit -n)"
        )
    if soft != resource.RLIM_INFINITY and soft < _LEAST_DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_LEAST_DESCRIPTORS, hard))


def _check_memory_limit() -> None:
    """Check that Triton can run at all: short of address space it aborts, or waits for a thread that it lacks.

    Whether the weights fit is checked by the engine, which knows them.

    Raises:
        CommandError: it cannot.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_ADDRESS_SPACE:
        raise CommandError(
            f"the limit of address space is {limit >> 20} MiB for a process; serve needs"
            f" {_LEAST_ADDRESS_SPACE >> 20} MiB at least, and what the weights take (ulimit -v)"
        )


@contextmanager
def _output(directory: RunDirectory, is_quiet: bool) -> Iterator[LogOutput]:
    """Give the place for what the processes write; of a file, an error gets the last lines along."""
    if not is_quiet:
        yield standard_error()
        return
    print_line(f"Log: {directory.log} (until the end)")
    with directory.log.open("wb") as log:
        try:
            yield LogOutput(log.fileno())
        except CommandError as error:
            lines = directory.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
            error.last_lines = error.last_lines or tuple(lines)
            raise


def _of_system(error: OSError) -> str:
    """Return what the system refused, and the way out."""
    ways_out = {
        errno.ENOSPC: "make room in the temporary directory, or set TMPDIR to another one",
        errno.EDQUOT: "make room in the temporary directory, or set TMPDIR to another one",
        errno.ENOMEM: "free memory, or raise the limit of it (ulimit -v)",
        errno.EAGAIN: "raise the limit of processes (ulimit -u)",
    }
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    return "; ".join(filter(None, [f"the system refuses: {what}", ways_out.get(error.errno or 0)]))


async def _as_coroutine(work: Awaitable[bool]) -> bool:
    return await work


def _choose_ports(settings: ServeSettings) -> tuple[int, TritonPorts]:
    """Check the ports that were given, and choose that of the API if it was left open."""
    ports = TritonPorts(settings.triton_http_port, settings.triton_grpc_port, settings.triton_metrics_port)
    if ports.grpc is None:
        check_socket_path()
    wanted = {"--port": (settings.host, settings.port)}
    for service, opened in vars(ports).items():
        if opened is not None:
            wanted[f"--triton-{service}-port"] = (LOOPBACK, opened)
    if settings.metrics_port not in (None, settings.port):
        wanted["--metrics-port"] = (settings.host, settings.metrics_port or 0)
    return choose_ports(wanted)[0], ports
