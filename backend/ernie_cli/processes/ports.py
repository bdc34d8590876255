"""Ports of this machine: whether one can be listened on, which process holds it, and which are free."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from ernie_cli.errors import CommandError

LOOPBACK = "127.0.0.1"
_LISTEN = "0A"  # the state in /proc/net/tcp


def choose_ports(requested: Mapping[str, tuple[str, int]]) -> tuple[int, ...]:
    """Return the requested ports, and free ones in place of 0; all different, all free a moment ago.

    Args:
        requested: flag -> (host, port).

    Raises:
        CommandError: a port is taken (names the process that holds it, if that can be seen), not allowed, or
            requested by two flags.
    """
    flag_of: dict[int, str] = {}
    for flag, (host, port) in requested.items():
        if port and port in flag_of:
            raise CommandError(f"{flag_of[port]} and {flag} both name port {port}; give them different ones")
        flag_of[port] = flag
        _check_free(host, port, flag)
    with contextlib.ExitStack() as stack:  # all are held until the last is chosen
        given_first = sorted(requested.items(), key=lambda item: item[1][1] == 0)
        chosen = {flag: stack.enter_context(_bound(*place)).getsockname()[1] for flag, place in given_first}
    return tuple(chosen[flag] for flag in requested)


def _check_free(host: str, port: int, flag: str) -> None:
    try:
        with _bound(host, port):
            return
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holder = holder_of(port)
            holder_text = f" by process {holder[0]} ({holder[1]})" if holder else ""
            raise CommandError(f"port {port} is in use{holder_text}; choose another {flag}") from None
        reason = error.strerror or error
        raise CommandError(
            f"cannot listen on {host}:{port}: {reason}; choose another --host or {flag}"
        ) from None


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1)  # two sockets may bind one port with SO_REUSEADDR; only one may listen
        yield listener


def holder_of(port: int) -> tuple[int, str] | None:
    """Return id and command line of the process that listens on ``port``, or None if it cannot be seen."""
    inodes = set(_listening_inodes(port))
    if not inodes:
        return None
    sockets = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or belongs to another user
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) in sockets:
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    return int(process.name), command.strip()[:80]
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
