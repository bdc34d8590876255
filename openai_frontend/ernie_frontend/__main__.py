"""The command ``ernie-triton-frontend``: parse flags, bind the ports, serve.

On SIGTERM and Ctrl-C it lets the answers in flight end and exits with 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import threading
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote_to_bytes

import typer

from ernie_frontend.cors import BadCorsFlags, read_cors
from ernie_frontend.http.connections import TooFewDescriptors, connection_limit
from ernie_frontend.log_output import log_to_standard_error
from ernie_frontend.middleware.api_keys import (
    API_KEY_VARIABLE,
    NoKey,
    environment_keys,
    read_key_file,
    split_keys,
)
from ernie_frontend.settings import Settings
from ernie_frontend.workers import serve

_MOST_SOCKET_BYTES = 107  # unix(7): 108 with the zero byte at the end
_CONNECT_S = 5.0
logger = logging.getLogger("ernie_frontend")


def run(  # noqa: PLR0913, PLR0917 - flags
    triton_url: Annotated[
        str, typer.Option(help="gRPC addresses of Triton, HOST:PORT or unix:PATH, comma-separated")
    ] = "127.0.0.1:8001",
    host: Annotated[str, typer.Option(help="address to listen on")] = "0.0.0.0",  # noqa: S104  as FastDeploy
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0 takes a free one")] = 8188,
    served_model_name: Annotated[str | None, typer.Option(help="accept only this name and 'default'")] = None,
    default_model: Annotated[str | None, typer.Option(help="Triton entry that serves unknown names")] = None,
    api_key: Annotated[
        list[str] | None, typer.Option(help="key of /v1; repeatable; default $FD_API_KEY")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="file of further keys, one per line; read again when it changes")
    ] = None,
    allowed_origins: Annotated[
        str | None, typer.Option(help="JSON array of the origins whose web pages may use the API (CORS)")
    ] = None,
    allow_credentials: Annotated[
        bool, typer.Option("--allow-credentials", help="these pages may send cookies and certificates")
    ] = False,
    allowed_methods: Annotated[
        str | None, typer.Option(help='JSON array of their methods; default ["*"]')
    ] = None,
    allowed_headers: Annotated[
        str | None, typer.Option(help='JSON array of their headers; default ["*"]')
    ] = None,
    disable_fastapi_docs: Annotated[
        bool, typer.Option("--disable-fastapi-docs", help="serve neither /docs nor /openapi.json")
    ] = False,
    max_concurrency: Annotated[
        int, typer.Option(min=1, help="generation requests in flight over all workers; above it 429")
    ] = 512,
    workers: Annotated[int, typer.Option(min=1, help="processes that share the port")] = 1,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="port of /metrics alone; default: on the main port")
    ] = None,
    timeout_graceful_shutdown: Annotated[int, typer.Option(min=0, help="seconds; 0 is no limit")] = 0,
) -> None:
    """Serve the OpenAI API in front of one Triton or several."""
    log_to_standard_error(logging.INFO)
    try:
        settings = Settings(
            triton_urls=_triton_urls(triton_url),
            served_model_name=served_model_name,
            default_model=default_model,
            api_keys=_api_keys(api_key, api_key_file),
            api_key_file=api_key_file,
            cors=read_cors(
                allowed_origins, allowed_methods, allowed_headers, allow_credentials=allow_credentials
            ),
            has_docs=not disable_fastapi_docs,
            max_concurrency=max_concurrency,
            max_connections=connection_limit(max_concurrency),
            drain_s=timeout_graceful_shutdown or None,
        )
    except (NoKey, BadCorsFlags, TooFewDescriptors) as error:
        raise _usage_error(str(error)) from None
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(_listen(host, port))]
        bound_port = listeners[0].getsockname()[1]
        if metrics_port is not None and metrics_port != bound_port:
            listeners.append(stack.enter_context(_listen(host, metrics_port, "--metrics-port")))
            settings = dataclasses.replace(settings, metrics_port=metrics_port)
        logger.info("serving http://%s:%d/v1, Triton at %s", host, bound_port, ", ".join(settings.triton_urls))
        logger.info("metrics at http://%s:%d/metrics", host, settings.metrics_port or bound_port)
        _warn_of_keys(settings, host, bound_port, is_in_command_line=bool(api_key))
        threading.Thread(target=_warn_of_triton, args=(settings.triton_urls,), daemon=True).start()
        try:
            has_served = serve(settings, listeners, workers)
        except OSError as error:
            place = error.filename or "the temporary directory"
            logger.error("cannot serve: %s: %s", place, error.strerror or error)  # noqa: TRY400 - not a bug
            has_served = False
        if not has_served:
            raise typer.Exit(1)


def _listen(host: str, port: int, flag: str = "--port") -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _usage_error(
            f"cannot listen on {host}: {error.strerror or error}; choose another --host"
        ) from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise _usage_error(f"cannot listen on {host}:{port}: {reason}; choose another {flag}") from None
    return listener


def _triton_urls(text: str) -> tuple[str, ...]:
    urls = tuple(url.strip() for url in text.split(","))
    for url in urls:
        if url.startswith("unix:"):
            _check_socket_path(url)
            continue
        host, _, port = url.rpartition(":")
        if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise _usage_error(f"--triton-url {url!r} is not HOST:PORT, like 127.0.0.1:8001, or unix:PATH")
    return urls


def _check_socket_path(url: str) -> None:
    size = len(unquote_to_bytes(url.removeprefix("unix:")))
    if not 0 < size <= _MOST_SOCKET_BYTES:
        limits = f"1 to {_MOST_SOCKET_BYTES} bytes"
        raise _usage_error(f"--triton-url {url!r}: the path of a Unix socket has {limits}")


def _warn_of_triton(urls: tuple[str, ...]) -> None:
    """Log which Tritons are unreachable at the start; every request tries again by itself."""
    for url in urls:
        if why := _why_unreachable(url):
            logger.warning("Triton cannot be reached at %s now: %s; requests get 503 until it can", url, why)


def _why_unreachable(url: str) -> str:
    """Return why an address does not accept connections; empty if it does."""
    try:
        if url.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_CONNECT_S)
                probe.connect(unquote_to_bytes(url.removeprefix("unix:")))
        else:
            host, _, port = url.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except OSError as error:
        return str(error.strerror or error)
    return ""


def _api_keys(flags: list[str] | None, file: Path | None) -> tuple[str, ...]:
    """Return the keys of the flags or the environment; those of the file are only checked."""
    if file is not None:
        read_key_file(file)
    if not flags:
        return environment_keys(os.environ)
    return tuple(key for text in flags for key in split_keys(text, "--api-key"))


def _warn_of_keys(settings: Settings, host: str, port: int, *, is_in_command_line: bool) -> None:
    if is_in_command_line:
        logger.warning(
            "--api-key stands in the list of processes, which every user reads; --api-key-file and $%s do not",
            API_KEY_VARIABLE,
        )
    has_keys = bool(settings.api_keys) or settings.api_key_file is not None
    if not has_keys and host not in ("127.0.0.1", "::1", "localhost"):
        logger.warning("no API key is set: everyone who can reach port %d may use it (--api-key-file)", port)


def _usage_error(message: str) -> typer.Exit:
    typer.echo(f"ernie-triton-frontend: {message}", err=True)
    return typer.Exit(2)


def main() -> None:
    """Entry point of the console script."""
    os.umask(0o077)  # files of this process and its workers are for this user alone
    typer.run(run)


if __name__ == "__main__":
    main()
