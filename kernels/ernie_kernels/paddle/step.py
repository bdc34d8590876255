"""A step's index arrays on the device, and the plan of its attention, made on the host.

Shapes that depend on the data are settled here, so that no op waits for the device. How attention is cut into
blocks is settled in ``ernie_kernels.attention_blocks``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import ELSEWHERE, Batch, CacheSpec
from ernie_kernels.attention_blocks import QueryGroup, attention_blocks
from ernie_kernels.batch_checks import check_axes, check_batch
from ernie_kernels.paddle.place import Place, Tensor
from ernie_kernels.paddle.rotary import Angles, DeviceRotary
from ernie_kernels.paddle.sampling import RowOrder
from ernie_kernels.routing import rows_of_banks

_ALIGNMENT = 16
"""Integers: each array of a packed copy starts at 64 bytes."""


@dataclass(frozen=True)
class DeviceKeys:
    """A ``KeyBlock`` on the device: ``slots`` int32 ``[N * L]``, ``positions`` int32 ``[1, 1, 1, 1, L]``.

    ``positions`` is None where no query of the group has a key hidden.
    """

    slots: Tensor
    positions: Tensor | None


@dataclass(frozen=True)
class DeviceGroup:
    """A ``QueryGroup`` on the device.

    Attributes:
        num_sequences: N.
        num_queries: Q.
        rows: int32 ``[N * Q]``.
        positions: int32 ``[N, 1, 1, Q, 1]``.
        key_blocks: the keys, in order.
    """

    num_sequences: int
    num_queries: int
    rows: Tensor
    positions: Tensor
    key_blocks: tuple[DeviceKeys, ...]


@dataclass(frozen=True)
class AttentionPlan:
    """``AttentionBlocks`` on the device: ``slots`` and ``order`` int32 ``[T]``."""

    slots: Tensor
    groups: tuple[DeviceGroup, ...]
    order: Tensor


@dataclass(frozen=True)
class DeviceStep:
    """A ``Batch`` with its index arrays on the device.

    Attributes:
        host: the batch.
        place: the device.
        positions: int32 ``[T]`` on each axis.
        token_ids: as in the batch, with 0 for ``ELSEWHERE``.
        logit_rows: those of the batch, in the order of ``RowOrder``.
        sampling: int32 ``[12, N]``, ``RowOrder.parameters``; None: the device chooses no random token.
        is_here: int32 ``[T, 1]``, 0 for ``ELSEWHERE``; None: there is none.
        media_order: int32 ``[T]``, each row's place once rows of media are laid behind the step's; None: it has
            no media.
        text_rows, vision_rows: int32, the rows of each bank of experts; None: all go to that of text.
        bank_order: int32 ``[T]``, the place of each row in the results of one bank behind the other.
    """

    host: Batch
    place: Place
    positions: tuple[Tensor, ...]
    token_ids: Tensor
    logit_rows: Tensor
    sampling: Tensor | None = None
    is_here: Tensor | None = None
    media_order: Tensor | None = None
    text_rows: Tensor | None = None
    vision_rows: Tensor | None = None
    bank_order: Tensor | None = None
    _plans: dict[CacheSpec, AttentionPlan] = field(default_factory=dict)
    _angles: dict[DeviceRotary, Angles] = field(default_factory=dict)

    def plan(self, spec: CacheSpec) -> AttentionPlan:
        """Return the plan of attention over a cache; all layers of a step share it."""
        if spec not in self._plans:
            self._plans[spec] = plan_attention(self.host, spec, self.place)
        return self._plans[spec]

    def angles(self, rotary: DeviceRotary) -> Angles:
        """Return the angles of all rows; all layers of a step share them."""
        if rotary not in self._angles:
            check_axes(self.host.positions, rotary.spec)
            self._angles[rotary] = rotary.angles(self.positions)
        return self._angles[rotary]


def upload(batch: Batch, place: Place) -> DeviceStep:
    """Bring ``batch`` to ``place``.

    Raises:
        ValueError: its fields do not fit each other.
    """
    check_batch(batch)
    arrays = row_indices(batch)
    views = upload_together([*arrays.values(), *np.atleast_2d(batch.positions)], place)
    return DeviceStep(batch, place, tuple(views[len(arrays) :]), **dict(zip(arrays, views, strict=False)))


def row_indices(batch: Batch) -> dict[str, NDArray[np.int32]]:
    """Return what ops read of a step's rows on the device: the fields of ``DeviceStep`` by their names."""
    tokens = len(batch.token_ids)
    is_here = batch.token_ids != ELSEWHERE
    logits = RowOrder.of(batch)
    arrays = {"token_ids": np.where(is_here, batch.token_ids, 0), "logit_rows": logits.rows}
    if len(logits.sampling):
        arrays["sampling"] = logits.parameters
    if not is_here.all():
        arrays["is_here"] = is_here[:, None]
    if batch.media_rows is not None:
        order = np.arange(tokens)
        order[batch.media_rows] = np.arange(len(batch.media_rows)) + tokens
        arrays["media_order"] = order
    if batch.vision_rows is not None and batch.vision_rows.size:
        rows_of = rows_of_banks(2, tokens, batch.vision_rows)
        arrays |= dict(zip(("text_rows", "vision_rows"), rows_of, strict=True))
        arrays["bank_order"] = np.argsort(np.concatenate(rows_of))
    return {name: array.astype(np.int32) for name, array in arrays.items()}


def upload_together(arrays: Sequence[NDArray[np.int32]], place: Place) -> list[Tensor]:
    """Bring integers to ``place`` in one copy; return views of it in their shapes."""
    starts = [0]
    for array in arrays:
        starts.append(starts[-1] + -(-array.size // _ALIGNMENT) * _ALIGNMENT)
    packed = np.zeros(max(1, starts[-1]), np.int32)
    for start, array in zip(starts, arrays, strict=False):
        packed[start : start + array.size] = array.reshape(-1)
    copy = place.upload(packed)
    return [
        copy[start : start + array.size].reshape(array.shape)
        for start, array in zip(starts, arrays, strict=False)
    ]


def plan_attention(batch: Batch, spec: CacheSpec, place: Place) -> AttentionPlan:
    """Return the plan of ``batch`` over a cache of ``spec``.

    Raises:
        ValueError: a block table is too short for its sequence, or names a block that does not exist.
    """
    blocks = attention_blocks(batch, spec)
    arrays = [blocks.slots, blocks.order]
    for group in blocks.groups:
        arrays += [group.rows, group.positions.reshape(group.num_sequences, 1, 1, -1, 1)]
        for keys in group.key_blocks:
            length = len(keys.slots) // group.num_sequences
            positions = np.arange(keys.first, keys.first + length, dtype=np.int32)
            arrays += [keys.slots, positions.reshape(1, 1, 1, 1, -1)]
    views = iter(upload_together(arrays, place))
    slots, order = next(views), next(views)
    return AttentionPlan(slots, tuple(_group(group, views) for group in blocks.groups), order)


def _group(group: QueryGroup, views: Iterator[Tensor]) -> DeviceGroup:
    rows, positions = next(views), next(views)
    keys = []
    for block in group.key_blocks:
        slots, places = next(views), next(views)
        keys.append(DeviceKeys(slots, places if block.has_hidden else None))
    return DeviceGroup(
        group.num_sequences, len(group.rows) // group.num_sequences, rows, positions, tuple(keys)
    )
