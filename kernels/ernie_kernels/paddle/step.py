"""A step's index arrays on the device, and the plan of its attention, made on the host.

Shapes that depend on the data are settled here, so that no op waits for the device. Attention works on groups
of sequences with equally many new tokens: all that decode (one token each) are one group, every other sequence
is one by itself, so queries are never padded. Contexts are padded to the longest of their group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Batch, CacheSpec
from ernie_kernels.batch_checks import check_axes, check_batch, check_indices
from ernie_kernels.paddle.place import Place, Tensor
from ernie_kernels.paddle.rotary import Angles, DeviceRotary


@dataclass(frozen=True)
class SequenceGroup:
    """Sequences with Q new tokens each, attended together. N sequences, contexts of at most L tokens.

    Attributes:
        num_sequences: N.
        num_queries: Q.
        rows: int32 ``[N * Q]``, the rows of the step.
        context_slots: int32 ``[N * L]``, the cache slots of the contexts, the new tokens included. Padding
            repeats the sequence's own first slot, so that no other sequence's numbers are ever touched.
        query_positions: int32 ``[N, 1, 1, Q, 1]``, places in the context.
        key_positions: int32 ``[1, 1, 1, 1, L]``; a query sees the keys that are not after it, hence no padding.
    """

    num_sequences: int
    num_queries: int
    rows: Tensor
    context_slots: Tensor
    query_positions: Tensor
    key_positions: Tensor


@dataclass(frozen=True)
class AttentionPlan:
    """How a step attends to one kind of cache.

    Attributes:
        slots: int32 ``[T]``, the cache slot of each new token.
        groups: the groups; together they hold every row once.
        order: int32 ``[T]``: row t of the step is row ``order[t]`` of the groups' results, laid end to end.
    """

    slots: Tensor
    groups: tuple[SequenceGroup, ...]
    order: Tensor


@dataclass(frozen=True)
class DeviceStep:
    """A ``Batch`` with its index arrays on the device.

    Attributes:
        host: the batch.
        place: the device.
        token_ids, logit_rows: as in the batch.
        positions: int32 ``[T]`` on each axis.
    """

    host: Batch
    place: Place
    token_ids: Tensor
    positions: tuple[Tensor, ...]
    logit_rows: Tensor
    _plans: dict[CacheSpec, AttentionPlan] = field(default_factory=dict)
    _angles: dict[DeviceRotary, Angles] = field(default_factory=dict)

    def plan(self, spec: CacheSpec) -> AttentionPlan:
        """Return the plan of attention over a cache; all layers of a step share it."""
        if spec not in self._plans:
            self._plans[spec] = plan_attention(self.host, spec, self.place.upload)
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
    return DeviceStep(
        host=batch,
        place=place,
        token_ids=place.upload(batch.token_ids),
        positions=tuple(map(place.upload, np.atleast_2d(batch.positions))),
        logit_rows=place.upload(batch.logit_rows),
    )


def plan_attention(
    batch: Batch, spec: CacheSpec, to_device: Callable[[NDArray[np.int32]], Tensor]
) -> AttentionPlan:
    """Return the plan of ``batch`` over a cache of ``spec``.

    Raises:
        ValueError: a block table is too short for its sequence, or names a block that does not exist.
    """
    counts = np.diff(batch.query_starts)
    lengths = batch.context_lengths + counts
    slots = _slots(batch.block_tables, lengths, spec)
    decoding = [int(index) for index in np.flatnonzero(counts == 1)]
    others = [[int(index)] for index in np.flatnonzero(counts > 1)]
    # The index of each token in its sequence, hence in the cache; it may differ from its rotary position.
    shifts = np.repeat(batch.context_lengths - batch.query_starts[:-1], counts)
    places = np.arange(counts.sum(), dtype=np.int32) + shifts
    # Results of the groups are laid end to end: rows maps them to rows of the step, order is the inverse.
    groups, rows = [], []
    for members in ([decoding] if decoding else []) + others:
        group_rows = np.concatenate([np.arange(*batch.query_starts[index : index + 2]) for index in members])
        rows.append(group_rows)
        groups.append(_group(places, members, group_rows.astype(np.int32), slots, lengths, to_device))
    order = np.argsort(np.concatenate(rows)).astype(np.int32)
    sequences = np.repeat(np.arange(len(counts)), counts)
    new_slots = slots[sequences, places].astype(np.int32)
    return AttentionPlan(to_device(new_slots), tuple(groups), to_device(order))


def _slots(block_tables: NDArray[np.int32], lengths: NDArray[np.int32], spec: CacheSpec) -> NDArray[np.int32]:
    """Return the slot of every position: ``[S, longest]``; those past a sequence's end are arbitrary."""
    size, blocks = spec.block_size, block_tables.shape[1]
    longest = int(lengths.max())
    if longest > blocks * size:
        raise ValueError(
            f"batch.block_tables has {blocks} blocks of {size} tokens, too short for {longest} tokens"
        )
    is_used = np.arange(blocks) * size < lengths[:, None]
    check_indices("batch.block_tables", block_tables[is_used], spec.num_blocks)
    positions = np.arange(longest)
    return block_tables[:, positions // size] * size + positions % size


def _group(
    places: NDArray[np.int32],
    members: list[int],
    rows: NDArray[np.int32],
    slots: NDArray[np.int32],
    lengths: NDArray[np.int32],
    to_device: Callable[[NDArray[np.int32]], Tensor],
) -> SequenceGroup:
    length = int(lengths[members].max())
    keys = np.arange(length, dtype=np.int32)
    contexts = slots[members, :length]
    # Padding repeats the first slot of the sequence; ``_attend_group`` masks it, but 0 * NaN would be NaN.
    contexts = np.where(keys < lengths[members][:, None], contexts, contexts[:, :1]).astype(np.int32)
    positions = places[rows].reshape(len(members), 1, 1, -1, 1)
    return SequenceGroup(
        num_sequences=len(members),
        num_queries=len(rows) // len(members),
        rows=to_device(rows),
        context_slots=to_device(contexts.reshape(-1)),
        query_positions=to_device(positions),
        key_positions=to_device(keys.reshape(1, 1, 1, 1, -1)),
    )
