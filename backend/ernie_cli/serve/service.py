"""``serve``: a tritonserver with one model and an OpenAI frontend, started, watched and ended together.

    checks -> model files -> tritonserver -> frontend, load the model -> startup table -> "Launching ..."

What was started is ended in the reverse order. On a machine of ``--ips`` that is not the first, ranks run
instead. A fault during the start ends the command; a later one is recovered from (``recovery.py``), unless it
keeps coming back. The error that ends the command is printed last, and the exit status is 1; a signal ends
everything with status 0.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_backend.parallel.layout import Layout
from ernie_backend.service.stages import Stages, process_age_s
from ernie_cli.errors import CommandError
from ernie_cli.model.check import check_model
from ernie_cli.model.source import ModelFiles, find_model
from ernie_cli.processes.child import Child
from ernie_cli.processes.supervisor import STOP_GRACE_S, StopRequested, Supervisor, while_running
from ernie_cli.serve import startup_table
from ernie_cli.serve.frontend import base_url, frontend_command, wait_until_ready
from ernie_cli.serve.oom_report import OomReport
from ernie_cli.serve.preflight import check_system, choose_service_ports, shared_memory_notice, system_error
from ernie_cli.serve.settings import ServeSettings
from ernie_cli.serve.worker_host import keep_ranks
from ernie_cli.triton.bundled import find_installed_server
from ernie_cli.triton.process import triton_command, triton_lines, triton_url
from ernie_cli.triton.run_directory import RunDirectory, new_run_directory, remove_abandoned, write_entry
from ernie_frontend.log_output import LogOutput, log_to_standard_error, print_line, standard_error

if TYPE_CHECKING:
    from ernie_cli.serve.recovery import TritonRecovery
    from ernie_cli.triton.model_control import TritonModel

WhenReady = Callable[[str], Coroutine[Any, Any, bool]]
"""Called with the API's base URL once it answers; returns whether to go on serving."""
_LOG_LINES = 20


def run_until_stopped(settings: ServeSettings, when_ready: WhenReady) -> None:
    """Serve until a signal comes or ``when_ready`` returns False.

    Raises:
        CommandError: something could not be started, or ended.
    """
    log_to_standard_error(logging.WARNING)
    stages = Stages("command line")
    try:
        check_system()
        with stages.stage("ports"):
            choose_service_ports(settings)  # a taken port is an error before anything that takes long
        model, layout = _find_model(settings, stages)
        _run(settings, model, layout, stages, when_ready)
    except StopRequested:
        standard_error().write("Stopped.\n")
    except OSError as error:
        raise system_error(error) from error


def _find_model(settings: ServeSettings, stages: Stages) -> tuple[ModelFiles, Layout]:
    with stages.stage("model files") as stage:
        is_dummy = settings.engine.get("load_choices") == "dummy"
        model = find_model(settings.model, settings.revision, with_weights=not is_dummy)
        layout = check_model(model.directory, settings.engine)
        stage.size_bytes = model.size_bytes
    return model, layout


def _run(
    settings: ServeSettings, model: ModelFiles, layout: Layout, stages: Stages, when_ready: WhenReady
) -> None:
    oom_report = OomReport()
    try:
        if layout.has_rank_0:
            asyncio.run(_Service(settings, model, stages).run(when_ready))
        else:
            asyncio.run(keep_ranks(layout, {"model": str(model.directory), **settings.engine}))
    except CommandError as error:
        if not settings.is_quiet:
            error.last_lines = ()  # they are on the screen already
        if error.exit_signal != signal.SIGKILL:
            raise
        raise error.with_message(f"{error.message}; {oom_report.on_kill(model.weights_bytes)}") from None


class _Service:
    """One ``serve`` from its start to its end."""

    def __init__(self, settings: ServeSettings, model: ModelFiles, stages: Stages) -> None:
        self._settings = settings
        self._model = model
        self._stages = stages
        self._port, self._triton_ports = choose_service_ports(settings)
        self._entry = settings.entry(model.name)
        self._url = base_url(settings.host, self._port)

    async def run(self, when_ready: WhenReady) -> None:
        remove_abandoned()
        with new_run_directory() as directory, _output(directory, self._settings.is_quiet) as output:
            parameters = {"model": str(self._model.directory), "engine_python": sys.executable}
            entry = directory.model_repository / self._entry
            write_entry(entry, {**parameters, **self._settings.engine})
            async with Supervisor(output) as supervisor, AsyncExitStack() as connections:
                with self._stages.stage("tritonserver"):
                    installed = find_installed_server()
                    command, environment = triton_command(directory, self._triton_ports, installed)
                    child = await supervisor.start("tritonserver", command, environment)
                    frontend = await self._start_frontend(supervisor, directory)
                    # Triton's client takes as long to import as Triton to start.
                    from ernie_cli.serve.recovery import FrontendRecovery, TritonRecovery, recover_all
                    from ernie_cli.triton.model_control import TritonModel

                    model = TritonModel(triton_url(directory, self._triton_ports), self._entry)
                    connections.push_async_callback(model.close)
                    version = await self._triton_version(supervisor, frontend, model, installed)
                self._print_triton(version, installed)
                triton = TritonRecovery(supervisor, directory, model, child)
                await self._load(supervisor, triton, frontend, model)
                with self._stages.stage("OpenAI frontend"):
                    await supervisor.run(wait_until_ready(self._url))
                supervisor.stop_notice = self._stop_notice()
                self._print_startup_times()
                if await supervisor.run(when_ready(self._url)):
                    recoveries = recover_all(triton, FrontendRecovery(supervisor, frontend, self._url))
                    await supervisor.run(recoveries, children_may_end=True)

    def _print_triton(self, version: str, installed: Path | None) -> None:
        has_keys = self._settings.asks_for_keys
        for line in triton_lines(version, installed, self._triton_ports, has_keys=has_keys):
            print_line(line)

    async def _load(
        self, supervisor: Supervisor, triton: TritonRecovery, frontend: Child, model: TritonModel
    ) -> None:
        with self._stages.stage("model"):
            await supervisor.run(while_running([frontend], triton.load()), children_may_end=True)
            description = await supervisor.run(model.engine_description())
        load = self._stages.list.pop()
        self._stages.list += startup_table.with_engine_stages(load, description)
        for line in shared_memory_notice(description.modalities if description else ()):
            print_line(line)

    async def _triton_version(
        self, supervisor: Supervisor, frontend: Child, model: TritonModel, installed: Path | None
    ) -> str:
        """Wait until Triton is live; return its version."""
        try:
            return await supervisor.run(model.wait_until_live())
        except CommandError as error:
            if installed is None or self._triton_ports.grpc or frontend.status is not None:
                raise  # Triton's socket is not the cause
            way_out = (
                f"if {installed} cannot listen on a Unix socket, --triton-grpc-port N opens a port instead"
            )
            raise error.with_message(f"{error.message}; {way_out}") from None

    async def _start_frontend(self, supervisor: Supervisor, directory: RunDirectory) -> Child:
        """Start the frontend, which imports while Triton starts and the engine reads."""
        url = triton_url(directory, self._triton_ports)
        command, environment = frontend_command(self._settings, self._port, url, self._entry, directory.path)
        drain_s = self._settings.drain_s
        grace_s = drain_s + STOP_GRACE_S if drain_s else None
        return await supervisor.start("the OpenAI frontend", command, environment, grace_s)

    def _stop_notice(self) -> str:
        drain_s = self._settings.drain_s
        limit = f"{drain_s} s at most" if drain_s else "as long as they take"
        return f"Stopping: answers under way get {limit}; a second Ctrl-C or signal ends at once."

    def _print_startup_times(self) -> None:
        total_s = process_age_s()
        if self._settings.is_quiet:
            print_line(f"Ready after {total_s:.1f} s.")
            return
        for line in startup_table.table(self._stages.list, total_s):
            print_line(line)


@contextmanager
def _output(directory: RunDirectory, is_quiet: bool) -> Iterator[LogOutput]:
    """Give the output for the processes: the screen, or a file whose last lines are added to an error."""
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
