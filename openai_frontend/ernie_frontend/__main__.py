"""The command ``ernie-triton-frontend``: parse flags, bind the ports, serve.

On SIGTERM and Ctrl-C it lets the answers in flight end and exits with 0.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote_to_bytes

from ernie_frontend.arguments import Parser, UsageError, checked
from ernie_frontend.cors import BadCorsFlags, read_cors
from ernie_frontend.http.connections import TooFewDescriptors, connection_limit
from ernie_frontend.log_output import log_to_standard_error
from ernie_frontend.media.flags import read_media_flags
from ernie_frontend.middleware.api_keys import (
    API_KEY_VARIABLE,
    NoKey,
    environment_keys,
    read_key_file,
    split_keys,
)
from ernie_frontend.settings import Settings
from ernie_frontend.workers import serve

_MAX_SOCKET_BYTES = 107  # unix(7): 108 with the zero byte at the end
_CONNECT_S = 5.0
logger = logging.getLogger("ernie_frontend")


def arguments_parser() -> Parser:
    """Return the parser of the command's flags."""
    parser = Parser("ernie-triton-frontend", "Serve the OpenAI API in front of one Triton or several.")
    add = parser.add_argument
    add(
        "--triton-url",
        default="127.0.0.1:8001",
        metavar="URLS",
        help="gRPC addresses of Triton, HOST:PORT or unix:PATH, comma-separated [%(default)s]",
    )
    add(
        "--host",
        default="0.0.0.0",  # noqa: S104 - as FastDeploy
        metavar="ADDRESS",
        help="address to listen on [%(default)s]",
    )
    add(
        "--port",
        type=_integer(0, 65535),
        default=8188,
        metavar="N",
        help="port to listen on; 0 takes a free one [%(default)s]",
    )
    add("--served-model-name", metavar="NAME", help="accept only this name and 'default'")
    add("--default-model", metavar="NAME", help="Triton entry that serves unknown names")
    add("--api-key", action="append", metavar="KEY", help="key of /v1; repeatable [$FD_API_KEY]")
    add(
        "--api-key-file",
        type=Path,
        metavar="PATH",
        help="file of further keys, one per line; read again when it changes",
    )
    add(
        "--allowed-origins",
        metavar="JSON",
        help="JSON array of the origins whose web pages may use the API (CORS)",
    )
    add("--allow-credentials", action="store_true", help="these pages may send cookies and certificates")
    add("--allowed-methods", metavar="JSON", help='JSON array of their methods [["*"]]')
    add("--allowed-headers", metavar="JSON", help='JSON array of their headers [["*"]]')
    add("--disable-fastapi-docs", action="store_true", help="serve neither /docs nor /openapi.json")
    add(
        "--max-concurrency",
        type=_integer(1),
        default=512,
        metavar="N",
        help="generation requests in flight over all workers; above it 429 [%(default)s]",
    )
    add(
        "--allowed-media-domains",
        metavar="HOSTS",
        help="hosts that images and videos are downloaded from, comma-separated; .example.com is every host "
        "below example.com [any public host]",
    )
    add(
        "--allow-private-media",
        action="store_true",
        help="images and videos may also be downloaded from private and loopback addresses",
    )
    add(
        "--allowed-local-media-path",
        metavar="DIRECTORY",
        help="directory whose files clients may send to the model as file:///PATH [none]",
    )
    add(
        "--workers",
        type=_integer(1),
        default=1,
        metavar="N",
        help="processes that share the port [%(default)s]",
    )
    add(
        "--metrics-port",
        type=_integer(1, 65535),
        metavar="N",
        help="port of /metrics alone [on the main port]",
    )
    add(
        "--timeout-graceful-shutdown",
        type=_integer(0),
        default=0,
        metavar="N",
        help="seconds; 0 is no limit [%(default)s]",
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Serve until a signal comes; return the exit status.

    Raises:
        UsageError: a flag is wrong, or asks for what this machine does not have.
    """
    log_to_standard_error(logging.INFO)
    options = arguments_parser().read(arguments)
    settings, host = _settings(options), options.host
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(_listen(host, options.port))]
        bound_port = listeners[0].getsockname()[1]
        if options.metrics_port not in (None, bound_port):
            listeners.append(stack.enter_context(_listen(host, options.metrics_port, "--metrics-port")))
            settings = dataclasses.replace(settings, metrics_port=options.metrics_port)
        logger.info("serving http://%s:%d/v1, Triton at %s", host, bound_port, ", ".join(settings.triton_urls))
        logger.info("metrics at http://%s:%d/metrics", host, settings.metrics_port or bound_port)
        _warn_of_keys(settings, host, bound_port, is_in_command_line=bool(options.api_key))
        threading.Thread(target=_warn_of_triton, args=(settings.triton_urls,), daemon=True).start()
        try:
            has_served = serve(settings, listeners, options.workers)
        except OSError as error:
            place = error.filename or "the temporary directory"
            logger.error("cannot serve: %s: %s", place, error.strerror or error)  # noqa: TRY400 - not a bug
            has_served = False
    return 0 if has_served else 1


def _settings(options: argparse.Namespace) -> Settings:
    try:
        keys = [key for text in options.api_key or () for key in split_keys(text, "--api-key")]
        if options.api_key_file is not None:
            read_key_file(options.api_key_file)  # only checked: the file is read again when it changes
        return Settings(
            triton_urls=_triton_urls(options.triton_url),
            served_model_name=options.served_model_name,
            default_model=options.default_model,
            api_keys=tuple(keys) if options.api_key else environment_keys(os.environ),
            api_key_file=options.api_key_file,
            cors=read_cors(
                options.allowed_origins,
                options.allowed_methods,
                options.allowed_headers,
                allow_credentials=options.allow_credentials,
            ),
            has_docs=not options.disable_fastapi_docs,
            media=read_media_flags(
                options.allowed_media_domains,
                options.allowed_local_media_path,
                allow_private=options.allow_private_media,
            ),
            max_concurrency=options.max_concurrency,
            max_connections=connection_limit(options.max_concurrency),
            drain_s=options.timeout_graceful_shutdown or None,
        )
    except (BadCorsFlags, NoKey, TooFewDescriptors) as error:
        raise UsageError(str(error)) from None


def _integer(low: int, high: int = 1 << 30) -> Callable[[str], int]:
    """Return a type of argparse: a whole number in [low, high]."""

    def read(text: str) -> int:
        if not text.removeprefix("-").isdecimal():
            raise ValueError(f"is {text!r}; it must be an integer")
        if not low <= int(text) <= high:
            raise ValueError(f"is {text}; it must be in [{low}, {high}]")
        return int(text)

    return checked(read)


def _listen(host: str, port: int, flag: str = "--port") -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}: {error.strerror or error}; choose another --host") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise UsageError(f"cannot listen on {host}:{port}: {reason}; choose another {flag}") from None
    return listener


def _triton_urls(text: str) -> tuple[str, ...]:
    urls = tuple(url.strip() for url in text.split(","))
    for url in urls:
        if url.startswith("unix:"):
            _check_socket_path(url)
            continue
        host, _, port = url.rpartition(":")
        if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(f"--triton-url {url!r} is not HOST:PORT, like 127.0.0.1:8001, or unix:PATH")
    return urls


def _check_socket_path(url: str) -> None:
    size = len(unquote_to_bytes(url.removeprefix("unix:")))
    if not 0 < size <= _MAX_SOCKET_BYTES:
        limits = f"1 to {_MAX_SOCKET_BYTES} bytes"
        raise UsageError(f"--triton-url {url!r}: the path of a Unix socket has {limits}")


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


def _warn_of_keys(settings: Settings, host: str, port: int, *, is_in_command_line: bool) -> None:
    if is_in_command_line:
        logger.warning(
            "--api-key is visible in the list of processes to every user; --api-key-file and $%s are not",
            API_KEY_VARIABLE,
        )
    has_keys = bool(settings.api_keys) or settings.api_key_file is not None
    if not has_keys and host not in ("127.0.0.1", "::1", "localhost"):
        logger.warning("no API key is set: everyone who can reach port %d may use it (--api-key-file)", port)


def main() -> None:
    """Entry point of the console script."""
    os.umask(0o077)  # files of this process and its workers are for this user alone
    try:
        status = run(sys.argv[1:])
    except UsageError as error:
        sys.stderr.write(f"ernie-triton-frontend: {error}\n")
        status = 2
    sys.exit(status)


if __name__ == "__main__":
    main()
