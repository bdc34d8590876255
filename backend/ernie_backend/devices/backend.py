"""Chooses the ops backend, once at start; only the chosen one is imported.

This module must not know models.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ernie_backend.devices.processors import usable_cores
from ernie_backend.errors import StartError
from ernie_kernels.api import Ops
from ernie_kernels.choice import TokenChooser
from ernie_kernels.ranks import Rendezvous

DEVICES = ("auto", "cpu", "reference", "xpu")


def resolve_device(
    asked: str, environment: Mapping[str, str] = os.environ, device_nodes: Path = Path("/dev")
) -> tuple[str, str | None]:
    """Return the device to use for one of ``DEVICES``, and a notice for the user or None.

    ``auto`` is ``xpu`` where there is a card, else ``cpu``.
    """
    if asked != "auto":
        return asked, None
    if any(device_nodes.glob("xpu[0-9]*")):
        return "xpu", None
    if environment.get("XPU_VISIBLE_DEVICES"):
        return "cpu", "XPU_VISIBLE_DEVICES is set, but this machine has no XPU: using the CPU"
    return "cpu", None


def create_ops(device: str, threads: int, rendezvous: Rendezvous | None = None) -> Ops:
    """Return the ops of a device, joined to those of the other ranks if there is a rendezvous.

    Raises:
        StartError: the backend cannot be imported, finds no device, or does not find the other ranks.
    """
    try:
        return _create(device, threads) if rendezvous is None else _create_joined(device, threads, rendezvous)
    except (ImportError, OSError, RuntimeError) as error:
        raise StartError(f"device {device} cannot be used: {error}") from error


def kernels_of(device: str) -> str:
    """Return what computes on a device: its name, on CPUs with this machine's instruction set.

    Ranks that differ in it compute other bits.
    """
    if device != "cpu":
        return device
    from ernie_kernels.cpu import CpuOps

    return f"cpu {CpuOps(1).instruction_set}"


def create_chooser(ops: Ops) -> TokenChooser:
    """Return what chooses tokens out of logits, which are on the host: the ops or the CPU."""
    if isinstance(ops, TokenChooser):
        return ops
    from ernie_kernels.cpu import CpuOps

    return CpuOps(usable_cores())


def _create(device: str, threads: int) -> Ops:
    if device == "cpu":
        from ernie_kernels.cpu import CpuOps

        return CpuOps(threads)
    if device == "xpu":
        from ernie_kernels.xpu import PaddleOps

        return PaddleOps("xpu:0")
    from ernie_kernels.reference import ReferenceOps

    return ReferenceOps()


def _create_joined(device: str, threads: int, rendezvous: Rendezvous) -> Ops:
    try:
        from ernie_kernels.xpu.process_group import join_devices, join_hosts
    except ImportError as error:
        raise StartError(f"several ranks need Paddle ({error}); install ernie-triton[paddle]") from error

    if device == "xpu":
        from ernie_kernels.xpu import PaddleOps

        place = f"xpu:{rendezvous.card}"
        return PaddleOps(place, join_devices(rendezvous, place))
    if device == "cpu":
        from ernie_kernels.cpu import CpuOps

        return CpuOps(threads, ranks=join_hosts(rendezvous))
    from ernie_kernels.reference import ReferenceOps

    return ReferenceOps(join_hosts(rendezvous))
