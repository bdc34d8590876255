"""A step on the device: one packed copy of all that the ops read there, and its twin on the host."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.batch_checks import check_indices
from ernie_kernels.fastdeploy.library import Lineage
from ernie_kernels.fastdeploy.step import StepDescriptor
from ernie_kernels.paddle.place import Place, Tensor
from ernie_kernels.paddle.step import DeviceStep, row_indices, upload_together


@dataclass(frozen=True)
class FastDeployStep(DeviceStep):
    """A step with its rows in FastDeploy's order.

    Attributes:
        rotary_rows: int32 ``[2 * T]``, where the cosines, then the sines of each row belong in the tables of a
            step's sequences, taken as rows; None: they share one table.
        attention: the arguments of ``block_attn`` that are the step's, by name; those that end in ``_cpu`` are
            on the host.
    """

    rotary_rows: Tensor | None = None
    attention: dict[str, Tensor] = field(default_factory=dict)


def upload_step(
    step: StepDescriptor, lineage: Lineage, place: Place, table_length: int | None = None
) -> FastDeployStep:
    """Bring a step to ``place``; ``table_length``: places in a rotary table, where each sequence has its own.

    Raises:
        ValueError: a sequence is longer than its rotary table.
    """
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
    rows = row_indices(batch)
    if table_length is not None:
        check_indices("a place in a rotary table", step.places, table_length)
        rows["rotary_rows"] = np.concatenate(
            [(2 * step.table_rows + part) * table_length + step.places for part in range(2)]
        )
    arrays = [*rows.values(), *on_device.values(), *np.atleast_2d(batch.positions)]
    views = iter(upload_together(arrays, place))
    of_rows, attention = ({name: next(views) for name in each} for each in (rows, on_device))
    attention |= dict(zip(on_host, upload_together(list(on_host.values()), place.host), strict=True))
    return FastDeployStep(batch, place, tuple(views), **of_rows, attention=attention)
