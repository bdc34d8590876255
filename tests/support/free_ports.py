"""Ports that nobody takes by chance between the moment they are chosen and the moment they are used."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path


def free_port() -> int:
    """Return a free TCP port below those that the system gives to whoever asks for any."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = first - 1 - secrets.randbelow(first // 2)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port


def free_ports(count: int) -> tuple[int, ...]:
    """Return different free ports."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return tuple(ports)
