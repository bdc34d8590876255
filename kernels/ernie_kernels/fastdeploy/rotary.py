"""Rotary embeddings as ``block_attn`` takes them: a table for all sequences, or one for each of a step.

The kernels know no positions. A row's place in its sequence (cached tokens, then new ones) is where they look
its angles up, so a token of an image needs a table in which that place holds the angles of its row and column.

    style          pairs                     last dimension       models
    NORMAL         (2i, 2i + 1)              head_dim, each twice text
    HALF_HEAD_DIM  (2i, 2i + 1)              head_dim / 2         ERNIE-4.5-VL
    NEOX           (i, i + head_dim / 2)     head_dim, two halves PaddleOCR-VL

One table is ``[2, 1, positions, 1, last]``, cosines, then sines; with ``rope_3d`` there is one for each row of
the block table. FastDeploy writes a request's table when it arrives, for its prompt and all answers that it may
get. Here a step writes the angles of its own tokens, which are all that it reads: cached keys are rotated
already. So it does not matter which row of the block table a sequence has from step to step, how much of its
prompt came from the prefix cache, or whether it was preempted.

Read in PaddlePaddle/FastDeploy: layers/rotary_embedding.py at 09ad396c, xpu_model_runner.py at edeff454,
block_attn.cc at e9a40218, block_attn_fused.cc at ba8a1245 and block_attn_spliced.cc at 1226b271. That tables
belong to rows of the block table is inferred: no other number of a sequence reaches the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ernie_kernels.api import RotarySpec
from ernie_kernels.fastdeploy.library import Lineage
from ernie_kernels.fastdeploy.upload import FastDeployStep
from ernie_kernels.paddle.place import Place, Tensor, paddle
from ernie_kernels.paddle.rotary import DeviceRotary
from ernie_kernels.rotary import rotary_table, sequence_tables_shape


def why_composed(spec: RotarySpec, lineage: Lineage) -> str | None:
    """Return why ``block_attn`` of a lineage does not rotate so; None: it does.

    Its kernel for NEOX prompts was first given the number of cached tokens in the development branch. Before,
    it counted places from 0 in every chunk, and wrote the cache from there.
    """
    if spec.interleaved or lineage is Lineage.DEVELOP:
        return None
    return (
        f"pairs (i, i + head_dim / 2), which FastDeploy {lineage.value} rotates in whole prompts only, neither "
        f"in chunks nor after a cached prefix; {Lineage.DEVELOP.value} can"
    )


@dataclass(frozen=True)
class SharedTable:
    """The same angles for all sequences: ``tensor`` float32 ``[2, 1, positions, 1, head_dim]``."""

    spec: RotarySpec
    tensor: Tensor

    def of_step(self, _: FastDeployStep) -> Tensor:
        """Return the table."""
        return self.tensor


class SequenceTables:
    """Angles of positions on several axes: a table for each row of a step's block table.

    They are allocated for as many sequences as a step had so far. ``scatter_`` writes in place; the two
    ``reshape_`` around it keep that true where views are copies (``FLAGS_use_stride_kernel=0``).
    """

    def __init__(self, spec: RotarySpec, place: Place) -> None:
        self.spec = spec
        self._angles = DeviceRotary.make(spec, place)
        self._tensor: Tensor = None
        self._written_by: FastDeployStep | None = None

    def of_step(self, step: FastDeployStep) -> Tensor:
        """Return the tables with the angles of a step's rows, which all layers share."""
        if self._written_by is not step:
            self._reserve(len(step.attention["block_tables"]))
            self._write(step)
            self._written_by = step
        return self._tensor

    def _reserve(self, sequences: int) -> None:
        shape = sequence_tables_shape(self.spec, sequences)
        if self._tensor is None or len(self._tensor) < shape[0]:
            self._tensor = None  # both at once may not fit
            self._tensor = paddle.zeros(shape, "float32")

    def _write(self, step: FastDeployStep) -> None:
        angles = step.angles(self._angles)
        rows = paddle.concat([angles.cosines, angles.sines]).squeeze(1)
        if not self.spec.interleaved:
            rows = paddle.concat([rows, rows], axis=-1)
        shape = self._tensor.shape
        self._tensor.reshape_((-1, shape[-1]))
        paddle.scatter_(self._tensor, step.rotary_rows, rows, overwrite=True)
        self._tensor.reshape_(shape)


BlockRotary = SharedTable | SequenceTables


def pack_rotary(spec: RotarySpec, place: Place) -> BlockRotary:
    """Make the tables of an embedding."""
    if spec.axes:
        return SequenceTables(spec, place)
    host = rotary_table(spec)
    both = np.stack([host.cosines, host.sines])
    wide = np.repeat(both, 2, axis=-1) if spec.interleaved else np.tile(both, 2)
    return SharedTable(spec, place.upload(wide[:, None, :, None, :]))


def style_arguments(spec: RotarySpec, lineage: Lineage) -> dict[str, Any]:
    """Return what ``block_attn`` is told about its rotary tables."""
    arguments: dict[str, Any] = {"rope_3d": bool(spec.axes)}
    if lineage is Lineage.V2_3:
        style = "NORMAL" if not spec.axes else "HALF_HEAD_DIM"
        return arguments | {"pos_emb_type": style if spec.interleaved else "NEOX"}
    # By the last dimension the kernel tells the other two apart.
    return arguments | {
        "use_neox_rotary_style": not spec.interleaved,
        "q_norm_weight": None,
        "k_norm_weight": None,
    }
