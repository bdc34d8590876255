"""``serve``: a tritonserver with one model and an OpenAI frontend, started, watched and ended together.

    check ports and model -> run directory -> tritonserver -> load the model -> frontend -> "Launching ..."

Ends are in the opposite order. Whatever goes wrong, its sentence is the last thing printed and the exit status
is 1; a signal ends everything with status 0. This module must not know the engine or HTTP requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import typer

from ernie_cli import flags
from ernie_cli.errors import CommandError
from ernie_cli.ports import LOOPBACK, check_free, free_ports
from ernie_cli.run_directory import RunDirectory
from ernie_cli.serve_settings import ServeSettings, engine_parameters
from ernie_cli.supervisor import StopRequested, Supervisor
from ernie_cli.triton import TritonModel, TritonPorts, triton_command
from ernie_cli.tritonserver import find_installed_server

FRONTEND_DEADLINE_S = 120.0
DRAIN_S = 10
_POLL_S = 0.1

WhenReady = Callable[[str], Awaitable[bool]]
"""Called with the API's base URL once it answers; returns whether to go on serving."""


def serve(  # noqa: PLR0913 - one parameter for each flag
    *,
    model: flags.Model,
    port: flags.Port = 8000,
    host: flags.Host = "0.0.0.0",  # noqa: S104 - as FastDeploy; the frontend warns when there is no API key
    tensor_parallel_size: flags.TensorParallelSize = None,
    max_model_len: flags.MaxModelLen = None,
    max_num_seqs: flags.MaxNumSeqs = None,
    max_num_batched_tokens: flags.MaxNumBatchedTokens = None,
    quantization: flags.Quantization = None,
    gpu_memory_utilization: flags.GpuMemoryUtilization = None,
    dtype: flags.Dtype = None,
    activation_dtype: flags.ActivationDtype = None,
    device: flags.Device = None,
    served_model_name: flags.ServedModelName = None,
    api_key: flags.ApiKey = None,
    triton_http_port: flags.TritonHttpPort = None,
    triton_grpc_port: flags.TritonGrpcPort = None,
    triton_metrics_port: flags.TritonMetricsPort = None,
    metrics_port: flags.MetricsPort = None,
    engine_worker_queue_port: flags.EngineWorkerQueuePort = None,
    cache_queue_port: flags.CacheQueuePort = None,
) -> None:
    """Serve a model directory with the OpenAI API; takes FastDeploy's flags."""
    _notice_ignored(
        {
            "--metrics-port": metrics_port,
            "--engine-worker-queue-port": engine_worker_queue_port,
            "--cache-queue-port": cache_queue_port,
        }
    )
    settings = ServeSettings(
        model=model,
        host=host,
        port=port,
        served_model_name=served_model_name,
        api_keys=tuple(api_key) if api_key else None,
        triton_http_port=triton_http_port,
        triton_grpc_port=triton_grpc_port,
        triton_metrics_port=triton_metrics_port,
        engine=engine_parameters(
            device=device,
            dtype=dtype,
            quantization=quantization.lower() if quantization else None,
            activation_dtype=activation_dtype,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            gpu_memory_utilization=gpu_memory_utilization,
            tensor_parallel_size=tensor_parallel_size,
            served_model_name=served_model_name,
        ),
    )
    run_until_stopped(settings, _print_services)


def run_until_stopped(settings: ServeSettings, when_ready: WhenReady) -> None:
    """Serve until a signal comes or ``when_ready`` returns False.

    Raises:
        CommandError: something could not be started, or ended.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(_serve(settings, when_ready))
    except StopRequested:
        typer.echo("Stopped.", err=True)


async def _serve(settings: ServeSettings, when_ready: WhenReady) -> None:
    directory = settings.model_directory()
    port, triton_ports = _choose_ports(settings)
    entry = settings.entry(directory)
    with RunDirectory() as run:
        parameters = {"model": str(directory), "engine_python": sys.executable, **settings.engine}
        run.write_entry(entry, parameters)
        async with Supervisor() as supervisor:
            installed = find_installed_server()
            command, environment = triton_command(run, triton_ports, installed)
            _print_triton(installed, triton_ports)
            await supervisor.start("tritonserver", command, environment)
            model = TritonModel(triton_ports.grpc, entry)
            try:
                await supervisor.run(model.wait_until_live())
                await supervisor.run(model.load())
                command, environment = _frontend_command(settings, port, triton_ports.grpc, entry)
                await supervisor.start("the OpenAI frontend", command, environment)
                url = f"http://{_reachable(settings.host)}:{port}"
                await supervisor.run(_wait_until_healthy(url))
                if await supervisor.run(_as_coroutine(when_ready(url))):
                    await supervisor.run(model.keep_loaded())
            finally:
                await model.close()


async def _as_coroutine(work: Awaitable[bool]) -> bool:
    return await work


def _choose_ports(settings: ServeSettings) -> tuple[int, TritonPorts]:
    """Check the ports that were given and choose the others."""
    check_free(settings.host, settings.port, "--port")
    given = {
        "--triton-http-port": settings.triton_http_port,
        "--triton-grpc-port": settings.triton_grpc_port,
        "--triton-metrics-port": settings.triton_metrics_port,
    }
    for flag, port in given.items():
        if port is not None:
            check_free(LOOPBACK, port, flag)
    free = free_ports(len(given) + 1)
    http, grpc, metrics = (port or other for port, other in zip(given.values(), free, strict=False))
    return settings.port or free[-1], TritonPorts(http, grpc, metrics)


def _frontend_command(
    settings: ServeSettings, port: int, grpc_port: int, entry: str
) -> tuple[list[str], dict[str, str]]:
    command = [sys.executable, "-m", "ernie_frontend", f"--triton-url={LOOPBACK}:{grpc_port}"]
    command += [f"--host={settings.host}", f"--port={port}", f"--default-model={entry}"]
    command += [f"--timeout-graceful-shutdown={DRAIN_S}"]
    if settings.served_model_name is not None:
        command.append(f"--served-model-name={settings.served_model_name}")
    environment = dict(os.environ)
    if settings.api_keys is not None:
        environment["FD_API_KEY"] = ",".join(settings.api_keys)  # a command line can be read by every user
    return command, environment


async def _wait_until_healthy(url: str) -> None:
    deadline = time.monotonic() + FRONTEND_DEADLINE_S
    async with httpx.AsyncClient(trust_env=False) as client:
        while time.monotonic() < deadline:
            try:
                if (await client.get(f"{url}/health")).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet; it is asked again
            await asyncio.sleep(_POLL_S)
    raise CommandError(f"{url}/health is not well after {FRONTEND_DEADLINE_S:g} s; the log is above")


def _reachable(host: str) -> str:
    """Return an address at which this machine reaches a server that listens on ``host``."""
    if host in ("0.0.0.0", "", "::"):  # noqa: S104 - compared, not bound
        return "[::1]" if host == "::" else LOOPBACK
    return f"[{host}]" if ":" in host else host


def _notice_ignored(given: dict[str, str | None]) -> None:
    ignored = [flag for flag, value in given.items() if value is not None]
    if ignored:
        typer.echo(f"Notice: no effect here: {', '.join(ignored)}", err=True)


def _print_triton(installed: Path | None, ports: TritonPorts) -> None:
    typer.echo(
        f"Triton: {installed or 'bundled'}; loopback ports {ports.http} (HTTP), {ports.grpc} (gRPC),"
        f" {ports.metrics} (metrics)"
    )


async def _print_services(url: str) -> bool:
    typer.echo(f"Launching chat completion service at {url}/v1/chat/completions")
    typer.echo(f"Launching completion service at {url}/v1/completions")
    return True
