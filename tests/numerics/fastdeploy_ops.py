"""``FastDeployOps`` over the stand-in of FastDeploy's ops, and what its numbers are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Batch, MlpWeights
from ernie_kernels.communicator import Communicator
from ernie_kernels.fastdeploy import limits as vendor
from ernie_kernels.fastdeploy.library import Library, Lineage
from ernie_kernels.fastdeploy.ops import FastDeployOps
from ernie_kernels.formats import round_to_bfloat16
from ernie_kernels.paddle.place import Place
from ernie_kernels.reference.attention import ReferenceCache, paged_attention
from ernie_kernels.reference.moe import ReferenceMoe, route
from ernie_kernels.reference.ops import rotate
from ernie_kernels.rotary import RotaryTable
from ernie_kernels.routing import rows_of_banks
from fakes.fastdeploy.library import fastdeploy_library
from fakes.fastdeploy.places import known_places
from fakes.paddle_bfloat16 import PLACE, bfloat16_kernels
from numerics.bfloat16_reference import Bfloat16Reference

Floats = NDArray[np.float32]


@contextmanager
def fastdeploy_ops(
    lineage: Lineage,
    library: Library | None = None,
    *,
    communicator: Communicator[Any] | None = None,
    is_logged: bool = False,
    block_sizes: frozenset[int] = frozenset({3, 4, 8}),
) -> Iterator[FastDeployOps]:
    """The ops over one lineage; ``library`` in place of the stand-in's own.

    Blocks are small, so that short prompts have several; with ``block_sizes`` they are those of the kernels.
    """
    with (
        patch.object(vendor, "BLOCK_SIZES", block_sizes),
        bfloat16_kernels(is_logged=is_logged),
        known_places(),
        patch.object(Place, "select", lambda _: PLACE),
    ):
        yield FastDeployOps("xpu:0", library or fastdeploy_library(lineage), communicator)


class FastDeployReference(Bfloat16Reference):
    """Rounds as FastDeploy's kernels do: rotated queries and keys, and the weights of experts, to bfloat16."""

    def attention(self, qkv: Floats, rotary: RotaryTable, cache: ReferenceCache, batch: Batch) -> Floats:
        spec = cache.spec
        heads = qkv.reshape(len(qkv), -1, spec.head_dim)
        queries, keys, values = np.split(heads, [-2 * spec.num_kv_heads, -spec.num_kv_heads], axis=1)
        angles = rotary.angles(batch.positions)
        queries, keys = (round_to_bfloat16(rotate(part, *angles, rotary.spec)) for part in (queries, keys))
        attended = paged_attention(queries, keys, values, cache, batch)
        return round_to_bfloat16(attended.reshape(len(qkv), -1))

    def moe(self, x: Floats, layer: ReferenceMoe, batch: Batch) -> Floats:
        def mlp(rows: Floats, weights: MlpWeights) -> Floats:
            return self.mlp(
                rows, *(self.pack_linear(each, layer.activation) for each in (weights.gate_up, weights.down))
            )

        routed = np.zeros_like(x)
        for bank, rows in zip(
            layer.banks, rows_of_banks(len(layer.banks), len(x), batch.vision_rows), strict=True
        ):
            routing = route(x[rows], bank.router)
            shares = round_to_bfloat16(routing.weights)
            for index, expert in zip(bank.local_experts, bank.experts, strict=True):
                chosen, places = np.nonzero(routing.experts == index)
                if chosen.size:
                    results = mlp(x[rows[chosen]], expert)
                    routed[rows[chosen]] += shares[chosen, places][:, None] * results
        routed = round_to_bfloat16(routed)
        return routed if layer.shared is None else round_to_bfloat16(routed + mlp(x, layer.shared))
