"""``Ops`` on a Paddle place: an XPU, or Paddle's CPU place where the compositions are tested.

Arrays are Paddle tensors, bfloat16 on an XPU and float32 on the CPU place (``Place.dtype``). Norms, rotation,
scores and the weighted sum of experts are float32 inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import ELSEWHERE, Batch, CacheSpec, ExpertBank, Gelu, MlpWeights, RotarySpec
from ernie_kernels.batch_checks import check_indices, media_rows
from ernie_kernels.communicator import Communicator, SingleRank
from ernie_kernels.formats import ActivationType, LinearWeight
from ernie_kernels.paddle import linear, patches, step
from ernie_kernels.paddle.attention import attend
from ernie_kernels.paddle.cache import PagedCache
from ernie_kernels.paddle.linear import PackedLinear
from ernie_kernels.paddle.moe import PackedMlp, PaddleMoe
from ernie_kernels.paddle.patches import AxialTable, PatchParts
from ernie_kernels.paddle.place import BFLOAT16, Place, Tensor, paddle
from ernie_kernels.paddle.rotary import DeviceRotary
from ernie_kernels.paddle.sampling import RowOrder, head_output
from ernie_kernels.paddle.step import DeviceStep
from ernie_kernels.patches import PatchCacheSpec, PatchGrid
from ernie_kernels.sampling import HeadOutput


class PaddleOps:
    """The operations of ``ernie_kernels.api.Ops``, composed of Paddle ops that the KL3 list has."""

    def __init__(self, place: str, communicator: Communicator[Tensor] | None = None) -> None:
        """Select ``place`` (``cpu`` or ``xpu:0``), which becomes Paddle's current device.

        ``communicator`` is this rank's, if several share the model.

        Raises:
            ValueError: the place is unknown.
            RuntimeError: this Paddle cannot use it.
        """
        self._place = Place.select(place)
        self._communicator: Communicator[Tensor] = communicator or SingleRank()
        self._norm_weights: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def card(self) -> int:
        """The place's number among the visible cards; 0 on Paddle's CPU place."""
        return int(self._place.name.partition(":")[2] or 0)

    def free_bytes(self) -> int | None:
        """Return the place's free memory, see ``Place``."""
        return self._place.free_bytes()

    def pack_linear(self, weight: LinearWeight, activation: ActivationType) -> PackedLinear:
        """Bring a matrix to the place."""
        return linear.pack(weight, activation, self._place)

    def pack_moe(
        self, banks: Sequence[ExpertBank], shared: MlpWeights | None, activation: ActivationType
    ) -> PaddleMoe:
        """Bring a layer of experts to the place."""
        return PaddleMoe.pack(banks, shared, activation, self._place)

    def pack_vector(self, values: NDArray[np.float32]) -> Tensor:
        """Bring a vector to the place."""
        return self._place.upload(values)

    def pack_rotary(self, spec: RotarySpec) -> DeviceRotary:
        """Make a rotary table."""
        return DeviceRotary.make(spec, self._place)

    def allocate_cache(self, spec: CacheSpec) -> PagedCache:
        """Allocate the KV cache of one layer."""
        return PagedCache.allocate(spec, self._place)

    def upload(self, batch: Batch) -> DeviceStep:
        """Bring a step's index arrays to the place."""
        return step.upload(batch, self._place)

    def embed(self, table: PackedLinear, batch: DeviceStep) -> Tensor:
        """Look the token ids up."""
        is_here = batch.host.token_ids != ELSEWHERE
        check_indices("batch.token_ids", batch.host.token_ids[is_here], table.values.shape[0])
        rows = table.rows(batch.token_ids)
        if batch.is_here is not None:
            rows = rows.astype("float32") * batch.is_here.astype("float32")
        return rows.astype(self._place.dtype)

    def norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """RMSNorm."""
        if self._place.has_bfloat16:
            return self._fused_norm(x, weight, None, epsilon)[0]
        mean_square = paddle.mean(x * x, axis=-1, keepdim=True)
        return x * paddle.rsqrt(mean_square + epsilon) * weight

    def add_norm(self, x: Tensor, delta: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Add, and RMSNorm of the sum."""
        if self._place.has_bfloat16:
            normed, total = self._fused_norm(delta, weight, x, epsilon)
            return total, normed
        total = x + delta
        return total, self.norm(total, weight, epsilon)

    def linear(self, x: Tensor, weight: PackedLinear, bias: Tensor | None = None) -> Tensor:
        """Return x @ W.T + bias."""
        product = weight.multiply(x)
        return product if bias is None else (product.astype("float32") + bias).astype(x.dtype)

    def mlp(self, x: Tensor, gate_up: PackedLinear, down: PackedLinear) -> Tensor:
        """Return down(silu(gate(x)) * up(x))."""
        return PackedMlp(gate_up, down).transform(x)

    def put_rows(self, x: Tensor, media: Tensor, batch: DeviceStep) -> Tensor:
        """Return x with the rows of media: rows of both, laid end to end, in another order."""
        media_rows(batch.host, media.shape[0])  # as many as there are
        if batch.media_order is None:
            return x
        return paddle.gather(paddle.concat([x, media.astype(x.dtype)]), batch.media_order)

    def moe(self, x: Tensor, layer: PaddleMoe, batch: DeviceStep) -> Tensor:
        """Return shared(x) plus the weighted sum of each row's experts."""
        return layer.transform(x, batch)

    def attention(self, qkv: Tensor, rotary: DeviceRotary, cache: PagedCache, batch: DeviceStep) -> Tensor:
        """Rotate, append to the cache, attend."""
        angles = batch.angles(rotary)
        spec, tokens = cache.spec, qkv.shape[0]
        kv_width = spec.num_kv_heads * spec.head_dim
        widths = [qkv.shape[1] - 2 * kv_width, kv_width, kv_width]
        queries, keys, values = paddle.split(qkv.astype("float32"), widths, axis=-1)
        queries, keys = (angles.rotate(part.reshape((tokens, -1, spec.head_dim))) for part in (queries, keys))
        plan = batch.plan(spec)
        cache.append(plan.slots, keys, values.reshape((tokens, spec.num_kv_heads, spec.head_dim)))
        return attend(queries, cache, plan).astype(qkv.dtype)

    def all_reduce(self, x: Tensor) -> Tensor:
        """Return the sum of the ranks' ``x``."""
        return self._communicator.all_reduce(x)

    def lm_head(self, hidden: Tensor, head: PackedLinear, batch: DeviceStep) -> HeadOutput:
        """Compute the logits, choose tokens."""
        if batch.host.logit_rows.size == 0:
            none = np.zeros((0, self._communicator.size * head.values.shape[0]), np.float32)
            return HeadOutput(none, np.zeros(0, np.int64))
        logits = self._communicator.all_gather(head.multiply(paddle.gather(hidden, batch.logit_rows)))
        return head_output(logits, RowOrder.of(batch.host), batch.sampling)

    def upload_rows(self, values: NDArray[np.float32]) -> Tensor:
        """Bring a matrix to the place, in the type of activations."""
        return self._place.upload(values).astype(self._place.dtype)

    def rows(self, x: Tensor, begin: int, end: int) -> Tensor:
        """Return rows ``begin`` to ``end`` - 1."""
        return x[begin:end]

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the rows of all parts."""
        return paddle.concat(list(parts))

    def merge_rows(self, x: Tensor, indices: NDArray[np.int32]) -> Tensor:
        """Return rows made of several."""
        check_indices("indices", indices, x.shape[0])
        return paddle.gather(x, self._place.upload(indices.reshape(-1))).reshape((len(indices), -1))

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        """LayerNorm."""
        values = x.astype("float32")
        return paddle.nn.functional.layer_norm(values, x.shape[1:], weight, bias, epsilon).astype(x.dtype)

    def add_layer_norm(
        self, x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """Add, and LayerNorm of the sum."""
        total = (x.astype("float32") + delta.astype("float32")).astype(x.dtype)
        return total, self.layer_norm(total, weight, bias, epsilon)

    def gelu_mlp(
        self,
        x: Tensor,
        up: PackedLinear,
        up_bias: Tensor,
        down: PackedLinear,
        down_bias: Tensor,
        gelu: Gelu,
    ) -> Tensor:
        """Return down(gelu(up(x) + up_bias)) + down_bias."""
        return self.linear(patches.gelu(self.linear(x, up, up_bias), gelu), down, down_bias)

    def add_positions(self, x: Tensor, table: Tensor, grid: PatchGrid, begin: int) -> Tensor:
        """Return patches plus their learned positions."""
        return patches.add_positions(x, table, grid, begin, self._place)

    def pack_axial_rotary(self, grid: PatchGrid, head_dim: int, theta: float) -> AxialTable:
        """Make the table of cosines and sines."""
        return AxialTable.make(grid, head_dim, theta, self._place)

    def allocate_patches(self, spec: PatchCacheSpec) -> PatchParts:
        """Return a cache that keeps what is appended."""
        return PatchParts(spec, self._place)

    def append_patches(self, qkv: Tensor, rotary: AxialTable, cache: PatchParts, begin: int) -> None:
        """Rotate, keep."""
        cache.append(qkv, rotary, begin)

    def attend_patches(self, cache: PatchParts, begin: int, end: int) -> Tensor:
        """Return the attention of patches ``begin`` to ``end`` - 1."""
        return cache.attend(begin, end)

    def _fused_norm(
        self, x: Tensor, weight: Tensor, residual: Tensor | None, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """Return RMSNorm of x + residual, and the sum (of no meaning without a residual), by Paddle's fused op.

        The XPU's kernel reads a weight of the type of x, so each is rounded when it is first used.
        """
        if id(weight) not in self._norm_weights:
            self._norm_weights[id(weight)] = weight, weight.astype(BFLOAT16)
        _, rounded = self._norm_weights[id(weight)]
        normed, total, *_ = paddle.incubate.nn.functional.fused_rms_norm(
            x, norm_weight=rounded, norm_bias=None, epsilon=epsilon, begin_norm_axis=1, residual=residual
        )
        return normed, total
