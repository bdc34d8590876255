"""Which ranks are on which machine.

Machines are addresses in a list; the first has rank 0, and each has as many ranks as the others, consecutive
ones. Without a list all ranks are on this machine.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ernie_backend.errors import StartError
from ernie_backend.settings.engine_settings import ParallelSettings
from ernie_kernels.communicator import CollectiveCounter, ProcessGroupConfig

LOOPBACK = "127.0.0.1"
_LOCALHOST = "localhost"


@dataclass(frozen=True)
class Layout:
    """The ranks of a group.

    Attributes:
        size: number of ranks.
        hosts: addresses of the machines; one if all ranks are on this one.
        own_host: index of this machine.
        port: of rank 0, where ranks of other machines connect.
        notice: a notice for the user about the list of machines, or None.
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

    def threads_per_rank(self, threads: int) -> int:
        """Return a rank's share of its machine's ``threads``."""
        return max(1, threads // self.ranks_per_host)

    def process_group(
        self, rank: int, master: str, collectives: CollectiveCounter, barrier: Callable[[], None]
    ) -> ProcessGroupConfig:
        """Return how ``rank`` joins the group; the ranks of a machine take its cards in order."""
        host, index = divmod(rank, self.ranks_per_host)
        return ProcessGroupConfig(rank, self.size, master, self.hosts[host], index, collectives, barrier)


def is_own_address(address: str) -> bool:
    """Return whether an IPv4 address is this machine's: a socket can bind to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def read_layout(
    settings: ParallelSettings,
    environment: Mapping[str, str] = os.environ,
    is_local: Callable[[str], bool] = is_own_address,
) -> Layout:
    """Return the layout of a group.

    Args:
        settings: number of ranks, addresses and port.
        environment: ``$PADDLE_TRAINER_ID`` is this machine's index if several addresses are its own.
        is_local: whether an address is this machine's.

    Raises:
        StartError: an address is wrong or duplicated, this machine is not in the list or not at the index that
            the environment gives, or the ranks are not a multiple of the machines.
    """
    size, port = settings.tensor_parallel_size, settings.engine_worker_queue_port
    hosts, name = read_machines(settings, environment)
    if len(hosts) < 2:
        is_here = not hosts or hosts[0] == _LOCALHOST or is_local(hosts[0])
        notice = (
            None if is_here else f"{name} is {hosts[0]}, not an address of this machine; all ranks run here"
        )
        return Layout(size, (LOOPBACK,), 0, port, notice)
    return Layout(size, hosts, _own_host(hosts, name, environment, is_local), port)


def read_machines(
    settings: ParallelSettings, environment: Mapping[str, str] = os.environ
) -> tuple[tuple[str, ...], str]:
    """Return the addresses of a group's machines, none without a list, and the setting that they are from.

    They are those of ``ips``, separated by commas, or else of ``$PADDLE_TRAINERS``. This machine's own need not
    be among them.

    Raises:
        StartError: an address is wrong or duplicated, or the ranks are not a multiple of the machines.
    """
    size, ips = settings.tensor_parallel_size, settings.ips.strip()
    name = "ips" if ips else "PADDLE_TRAINERS"
    hosts = _addresses(ips or environment.get("PADDLE_TRAINERS", ""), name)
    if size % max(1, len(hosts)):
        raise StartError(
            f"tensor_parallel_size is {size} and {name} has {len(hosts)} machines, each with the same "
            f"number of ranks; it must be a multiple of {len(hosts)}"
        )
    return hosts, name


def check_leads(layout: Layout) -> None:
    """Raise StartError unless this machine is the first: only that has an engine."""
    if not layout.has_rank_0:
        raise StartError(
            f"this machine is {layout.hosts[layout.own_host]}, and rank 0 is on {layout.hosts[0]}: only ranks "
            "run here, started by ernie-triton serve"
        )


def _addresses(text: str, name: str) -> tuple[str, ...]:
    addresses = tuple(address.strip() for address in text.split(",") if address.strip())
    for address in addresses:
        try:
            socket.inet_pton(socket.AF_INET, address)
        except OSError:
            if address != _LOCALHOST:
                raise StartError(
                    f"{name} has {address!r}, which is not an IPv4 address; give ADDRESS,ADDRESS,..."
                ) from None
            if len(addresses) > 1:
                raise StartError(
                    f"{name} has localhost, which means a different machine on each; give the address at "
                    "which the others reach it"
                ) from None
        if addresses.count(address) > 1:
            raise StartError(f"{name} has {address} twice; tensor_parallel_size says how many ranks there are")
    return addresses


def _own_host(
    hosts: tuple[str, ...], name: str, environment: Mapping[str, str], is_local: Callable[[str], bool]
) -> int:
    index = environment.get("PADDLE_TRAINER_ID", "")
    if index:
        if not index.isdigit() or int(index) >= len(hosts):
            raise StartError(
                f"PADDLE_TRAINER_ID is {index!r}; {name} has {len(hosts)} machines, so it must be "
                f"0 to {len(hosts) - 1}"
            )
        if not is_local(hosts[int(index)]):  # it could neither listen there nor connect from there
            raise StartError(
                f"PADDLE_TRAINER_ID is {index}, where {name} ({','.join(hosts)}, counted from 0) has "
                f"{hosts[int(index)]}, which is not an address of this machine; correct one of them"
            )
        return int(index)
    own = [host for host, address in enumerate(hosts) if is_local(address)]
    if len(own) != 1:
        which = f"{len(own)} of them are addresses" if own else "none is an address"
        raise StartError(
            f"{name} is {','.join(hosts)}; {which} of this machine: correct the list, or set "
            "PADDLE_TRAINER_ID to the index of this machine"
        )
    return own[0]
