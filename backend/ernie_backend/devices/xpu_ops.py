"""The ops of an XPU: FastDeploy's where they are installed, else the slow fallback, composed of Paddle's."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from ernie_backend.devices.device import Device, composed_p800, p800
from ernie_backend.devices.kunlunxin import read_xpu_host
from ernie_backend.errors import StartError
from ernie_kernels.api import Ops
from ernie_kernels.communicator import ProcessGroupConfig
from ernie_kernels.fastdeploy import limits
from ernie_kernels.needs import Needs

logger = logging.getLogger(__name__)

XPU_OPS = "ERNIE_XPU_OPS"
"""Environment variable that chooses between FastDeploy's ops and composed ones."""
COMPOSED = "composed"
_CHOICES = ("auto", "fastdeploy", COMPOSED)


def chosen_ops(environment: Mapping[str, str] = os.environ) -> str:
    """Return the user's choice of ops.

    Raises:
        StartError: ``ERNIE_XPU_OPS`` has no such value.
    """
    choice = environment.get(XPU_OPS) or _CHOICES[0]
    if choice not in _CHOICES:
        raise StartError(f"{XPU_OPS} is {choice!r}; choose auto, fastdeploy or composed")
    return choice


def fastdeploy_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file of FastDeploy's ops if they are installed and wanted; None: ops are composed.

    Raises:
        StartError: ``ERNIE_XPU_OPS`` has no such value, or wants ops that are not there.
    """
    from ernie_kernels.fastdeploy.library import find_library

    choice = chosen_ops(environment)
    file = None if choice == COMPOSED else find_library()
    if file is None and choice == "fastdeploy":
        raise StartError(
            f"{XPU_OPS} is fastdeploy, and FastDeploy's XPU ops are not installed in this Python; install "
            "fastdeploy-xpu, or choose composed, the slow fallback"
        )
    return file


def make_ops(_: int, group: ProcessGroupConfig | None) -> Ops:
    """Return the ops on the card of a rank, joined to those of its group; the first argument is for CPUs."""
    from ernie_kernels.paddle import PaddleOps
    from ernie_kernels.paddle.process_group import join_device_group

    place = "xpu:0" if group is None else f"xpu:{group.card}"
    file = fastdeploy_file()
    if file is None:
        logger.warning(
            "notice: ops are composed of Paddle's, the slow fallback, since FastDeploy's XPU ops are not "
            "installed in this Python, or %s says so",
            XPU_OPS,
        )
        return PaddleOps(place, None if group is None else join_device_group(group, place))
    from ernie_kernels.fastdeploy.library import load_library
    from ernie_kernels.fastdeploy.ops import FastDeployOps

    library = load_library(file)
    logger.info("start: FastDeploy's ops of version %s, from %s", library.lineage.value, file)
    return FastDeployOps(place, library, None if group is None else join_device_group(group, place))


def planned_device(_: int, card_bytes: int | None) -> Device:
    """Return a card of so many bytes with the ops of this machine; the first argument is for CPUs."""
    return composed_p800(card_bytes) if fastdeploy_file() is None else p800(card_bytes)


def why_refused(needs: Needs) -> str | None:
    """Return what the ops of this machine lack of ``needs``; None: nothing, as with composed ops."""
    return None if fastdeploy_file() is None else limits.why_refused(needs)


def card_free_bytes(ops: Ops) -> int | None:
    """Ask xpu-smi, as before the weights were loaded; Paddle where xpu-smi does not say.

    Paddle 3.3 takes the card's number among the visible ones, and the library that it asks (xpuml, by which
    FastDeploy asks for the machine's own numbers) need not know ``XPU_VISIBLE_DEVICES``: Paddle may answer for
    another card. So it is only asked where both numbers are the same.
    """
    from ernie_kernels.paddle import PaddleOps

    paddle_ops, host = cast(PaddleOps, ops), read_xpu_host()
    place = paddle_ops.card
    free = host.card_free_bytes(place)
    is_renumbered = host.chosen[place : place + 1] != (place,)
    return free if free is not None or is_renumbered else paddle_ops.free_bytes()
