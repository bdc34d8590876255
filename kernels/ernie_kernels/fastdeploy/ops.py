"""``Ops`` over FastDeploy's kernels for XPUs.

What they have is theirs: attention with its cache and rotation, products with int8 weights, experts. All else
is that of ``PaddleOps``, in bfloat16: embedding, norms, dense products and the output head, and what vision
towers need. A step's rows are in FastDeploy's order from ``upload`` on, and whatever names rows is renamed with
them, so that neither those ops nor the caller notices.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ernie_kernels.api import (
    Batch,
    CacheSpec,
    ExpertBank,
    LayerCache,
    MlpWeights,
    Moe,
    Rotary,
    RotarySpec,
)
from ernie_kernels.batch_checks import check_axes, check_batch
from ernie_kernels.communicator import Communicator
from ernie_kernels.fastdeploy.attention import BlockCache, attend
from ernie_kernels.fastdeploy.library import Library, Lineage
from ernie_kernels.fastdeploy.linear import WeightOnlyLinear
from ernie_kernels.fastdeploy.moe import FastDeployBank, FastDeployMoe
from ernie_kernels.fastdeploy.rotary import pack_rotary, why_composed
from ernie_kernels.fastdeploy.step import StepDescriptor, describe_step
from ernie_kernels.fastdeploy.upload import FastDeployStep, upload_step
from ernie_kernels.formats import ActivationType, Int4Weight, Int8Weight, LinearWeight
from ernie_kernels.paddle import PaddleOps
from ernie_kernels.paddle.linear import PackedLinear
from ernie_kernels.paddle.moe import PackedMlp
from ernie_kernels.paddle.place import Tensor
from ernie_kernels.paddle.rotary import DeviceRotary
from ernie_kernels.paddle.step import DeviceStep
from ernie_kernels.paddle.step import upload as upload_composed

logger = logging.getLogger(__name__)

MOST_DRAFTED = 6
"""New tokens of a sequence that decodes: FastDeploy itself has at most five drafts.

More than that, all drafts in version 2.3, and those of pairs (i, i + head_dim / 2) are a chunk of a prompt
behind a cached prefix: there the branch for speculation reads the queries from the step's first row on.
"""


class FastDeployOps(PaddleOps):
    """The operations of ``ernie_kernels.api.Ops``, of which FastDeploy's kernels compute the heavy ones."""

    def __init__(self, place: str, library: Library, communicator: Communicator[Tensor] | None = None) -> None:
        """Select ``place``; for the rest see ``PaddleOps``."""
        super().__init__(place, communicator)
        self._library = library
        self._is_attention_composed = False
        self._rotary: RotarySpec | None = None
        self._cache: CacheSpec | None = None

    def pack_linear(self, weight: LinearWeight, activation: ActivationType) -> PackedLinear:
        """Bring a matrix to the place."""
        packed = super().pack_linear(weight, activation)
        if not isinstance(weight, Int8Weight | Int4Weight):
            return packed
        return WeightOnlyLinear(packed.values, packed.absmax, packed.scales, packed.activation, self._library)

    def pack_moe(
        self, banks: Sequence[ExpertBank], shared: MlpWeights | None, activation: ActivationType
    ) -> Moe:
        """Bring a layer of experts to the place."""
        packed = None
        if shared is not None:
            packed = PackedMlp(*(self.pack_linear(each, activation) for each in (shared.gate_up, shared.down)))
        stacks = tuple(FastDeployBank.pack(bank, self._place, self._library) for bank in banks)
        return FastDeployMoe(stacks, packed)

    def pack_rotary(self, spec: RotarySpec) -> Rotary:
        """Make a rotary table; one that the kernels do not take makes attention a composed one."""
        reason = why_composed(spec, self._library.lineage)
        self._rotary, self._cache, self._is_attention_composed = spec, None, reason is not None
        if reason is None:
            return pack_rotary(spec, self._place)
        logger.warning(
            "notice: FastDeploy's block_attn is not used for this model's rotary embedding (%s); its "
            "attention is composed of Paddle's ops, the slow fallback",
            reason,
        )
        return super().pack_rotary(spec)

    def allocate_cache(self, spec: CacheSpec) -> LayerCache:
        """Allocate the KV cache of one layer."""
        if self._is_attention_composed:
            return super().allocate_cache(spec)
        is_interleaved = self._rotary is None or self._rotary.interleaved
        cache = BlockCache.allocate(spec, self._place, is_interleaved=is_interleaved)
        self._cache = spec
        return cache

    def upload(self, batch: Batch) -> DeviceStep:
        """Bring a step's index arrays to the place, in one copy."""
        check_batch(batch)
        if self._cache is not None:
            try:
                step = self._describe(batch, self._cache)
            except ValueError:
                pass  # it cannot attend over this cache, which ``attention`` says if it should
            else:
                length = self._rotary.max_positions if self._rotary and self._rotary.axes else None
                return upload_step(step, self._library.lineage, self._place, length)
        return upload_composed(batch, self._place)

    def attention(self, qkv: Tensor, rotary: Rotary, cache: LayerCache, batch: DeviceStep) -> Tensor:
        """Rotate, append to the cache, attend."""
        if isinstance(rotary, DeviceRotary):
            return super().attention(qkv, rotary, cache, batch)
        if not isinstance(batch, FastDeployStep):
            self._describe(batch.host, cache.spec)  # says what is wrong with it
            raise ValueError("a step that attends must be uploaded after its cache is allocated")  # noqa: TRY004 - its time is wrong
        check_axes(batch.host.positions, rotary.spec)
        return attend(self._library, qkv, rotary, cache, batch)

    def _describe(self, batch: Batch, cache: CacheSpec) -> StepDescriptor:
        rotary, lineage = self._rotary, self._library.lineage
        takes_drafts = lineage is not Lineage.V2_3 and (rotary is None or rotary.interleaved)
        return describe_step(
            batch,
            cache.block_size,
            cache.num_blocks,
            MOST_DRAFTED if takes_drafts else 1,
            has_tables=rotary is not None and bool(rotary.axes),
        )
