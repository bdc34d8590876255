"""Which ranks are on which machine.

Machines are addresses in a list; the first has rank 0, and each has as many ranks as the others, consecutive
ones. Without a list all ranks are on this machine. This module must not know processes or sockets beyond asking
whether an address is this machine's.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ernie_backend.errors import StartError

LOOPBACK = "127.0.0.1"
_LOCALHOST = "localhost"


@dataclass(frozen=True)
class Layout:
    """The ranks of a group.

    Attributes:
        size: how many there are.
        hosts: addresses of the machines; one if all ranks are on this one.
        own_host: index of this machine.
        port: where ranks of other machines meet rank 0.
        notice: what the user should know about the list; None: nothing.
    """

    size: int
    hosts: tuple[str, ...]
    own_host: int
    port: int
    notice: str | None = None

    @property
    def ranks_per_host(self) -> int:
        """Ranks on each machine."""
        return self.size // len(self.hosts)

    @property
    def has_rank_0(self) -> bool:
        """Whether the engine is on this machine."""
        return self.own_host == 0

    def rank(self, host: int, index: int) -> int:
        """Return the rank of the ``index``-th process of a machine."""
        return host * self.ranks_per_host + index


def read_layout(
    size: int,
    ips: str,
    port: int,
    environment: Mapping[str, str] = os.environ,
    is_local: Callable[[str], bool] | None = None,
) -> Layout:
    """Return the layout of a group.

    Args:
        size: ranks.
        ips: addresses with commas between; if it is empty, those in ``$PADDLE_TRAINERS``.
        port: where the machines meet.
        environment: ``$PADDLE_TRAINER_ID`` is this machine's index, if its address does not say it.
        is_local: whether an address is this machine's; default: asks the system.

    Raises:
        StartError: an address is wrong or given twice, this machine is none of them or not the one it is told
            to be, or they cannot have equally many ranks.
    """
    hosts, name = read_machines(size, ips, environment)
    is_local = is_local or is_own_address
    if len(hosts) < 2:
        is_here = not hosts or hosts[0] == _LOCALHOST or is_local(hosts[0])
        notice = (
            f"{name} is {hosts[0]}, no address of this machine; all ranks run here" if not is_here else None
        )
        return Layout(size, (LOOPBACK,), 0, port, notice)
    own = _own_host(hosts, name, environment, is_local)
    return Layout(size, hosts, own, port)


def read_machines(
    size: int, ips: str, environment: Mapping[str, str] = os.environ
) -> tuple[tuple[str, ...], str]:
    """Return the addresses of a group's machines, none if it has no list, and where they stand.

    Raises:
        StartError: an address is wrong or given twice, or they cannot have equally many of ``size`` ranks.
    """
    name = "ips" if ips.strip() else "PADDLE_TRAINERS"
    hosts = _addresses(ips.strip() or environment.get("PADDLE_TRAINERS", ""), name)
    if size % max(1, len(hosts)):
        raise StartError(
            f"tensor_parallel_size is {size} and {name} has {len(hosts)} machines with equally many ranks; "
            f"it must be a multiple of {len(hosts)}"
        )
    return hosts, name


def check_leads(layout: Layout) -> None:
    """Raise StartError unless this machine is the first, which alone has an engine."""
    if not layout.has_rank_0:
        raise StartError(
            f"this machine is {layout.hosts[layout.own_host]}, and rank 0 is on {layout.hosts[0]}: only ranks "
            "run here, started by ernie-triton serve"
        )


def is_own_address(address: str) -> bool:
    """Whether an IPv4 address is this machine's: one can bind to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _addresses(text: str, name: str) -> tuple[str, ...]:
    addresses = tuple(address.strip() for address in text.split(",") if address.strip())
    for address in addresses:
        try:
            socket.inet_pton(socket.AF_INET, address)
        except OSError:
            if address != _LOCALHOST:
                raise StartError(
                    f"{name} has {address!r}, which is no IPv4 address; give ADDRESS,ADDRESS,..."
                ) from None
            if len(addresses) > 1:
                raise StartError(
                    f"{name} has localhost, which is another machine on each; give the address at which the "
                    "others reach it"
                ) from None
        if addresses.count(address) > 1:
            raise StartError(f"{name} has {address} twice; tensor_parallel_size says how many ranks there are")
    return addresses


def _own_host(
    hosts: tuple[str, ...], name: str, environment: Mapping[str, str], is_local: Callable[[str], bool]
) -> int:
    given = environment.get("PADDLE_TRAINER_ID", "")
    if given:
        if not given.isdigit() or int(given) >= len(hosts):
            raise StartError(
                f"PADDLE_TRAINER_ID is {given!r}; {name} has {len(hosts)} machines, so it must be "
                f"0 to {len(hosts) - 1}"
            )
        if not is_local(hosts[int(given)]):  # it could neither listen there nor come from there
            raise StartError(
                f"PADDLE_TRAINER_ID is {given}, where {name} ({','.join(hosts)}, counted from 0) has "
                f"{hosts[int(given)]}, which is no address of this machine; correct the one or the other"
            )
        return int(given)
    own = [index for index, host in enumerate(hosts) if is_local(host)]
    if len(own) != 1:
        which = f"{len(own)} of them are addresses" if own else "none is an address"
        raise StartError(
            f"{name} is {','.join(hosts)}; {which} of this machine: correct the list, or set "
            "PADDLE_TRAINER_ID to the index of this machine"
        )
    return own[0]
