"""A step on the device: one packed copy of all that the ops read there, and its twin on the host."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.fastdeploy.library import Lineage
from ernie_kernels.fastdeploy.step import StepDescriptor
from ernie_kernels.paddle.place import Place, Tensor
from ernie_kernels.paddle.step import DeviceStep, upload_together


@dataclass(frozen=True)
class FastDeployStep(DeviceStep):
    """A step with its rows in FastDeploy's order.

    Attributes:
        attention: the arguments of ``block_attn`` that are the step's, by name; those that end in ``_cpu`` are
            on the host.
    """

    attention: dict[str, Tensor] = field(default_factory=dict)


def upload_step(step: StepDescriptor, lineage: Lineage, place: Place) -> FastDeployStep:
    """Bring a step to ``place``."""
    batch, lengths = step.batch, step.lengths.arrays()
    on_device: dict[str, NDArray[np.int32]] = {
        "block_tables": step.block_tables,
        "prefix_block_tables": step.prefix_block_tables,
    }
    len_info = step.len_info
    if lineage is Lineage.V2_3:
        len_info = len_info[:6]
    else:
        on_device |= lengths
    if lineage is Lineage.DEVELOP:
        on_device |= {"slot_mapping_enc": step.slot_mapping_enc, "slot_mapping_dec": step.slot_mapping_dec}
    else:
        on_device["cum_offsets"] = np.zeros(len(step.block_tables), np.int32)  # only its length is read
    on_host = {f"{name}_cpu": array for name, array in lengths.items()} | {"len_info_cpu": len_info}
    positions = np.atleast_2d(batch.positions)
    token_ids, logit_rows, *views = upload_together(
        [batch.token_ids, batch.logit_rows, *on_device.values(), *positions], place
    )
    attention = dict(zip(on_device, views, strict=False))
    attention |= dict(zip(on_host, upload_together(list(on_host.values()), place.host), strict=True))
    axes = tuple(views[len(on_device) :])
    return FastDeployStep(batch, place, token_ids, axes, logit_rows, attention=attention)
