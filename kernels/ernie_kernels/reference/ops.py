"""``ReferenceOps``: the ops interface over the functions of this package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import ELSEWHERE, Batch, CacheSpec, ExpertBank, Gelu, MlpWeights, RotarySpec
from ernie_kernels.batch_checks import check_axes, check_batch, check_indices, media_rows
from ernie_kernels.communicator import Communicator, SingleRank
from ernie_kernels.formats import ActivationType, LinearWeight, check_activation, dequantize
from ernie_kernels.patches import PatchCacheSpec, PatchGrid, axial_rotary_table, position_samples
from ernie_kernels.reference.attention import ReferenceCache, paged_attention
from ernie_kernels.reference.linear import linear
from ernie_kernels.reference.moe import ReferenceBank, ReferenceMoe, moe
from ernie_kernels.reference.patches import AxialTable, ReferencePatches, gelu, layer_norm
from ernie_kernels.rotary import RotaryTable, rotary_table
from ernie_kernels.sampling import (
    HeadOutput,
    SamplingBatch,
    TokenMasks,
    Tokens,
    apply_token_masks,
    head_output,
    sample_tokens,
)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ReferenceLinear:
    """A weight ``[N, K]`` and how its inputs are rounded."""

    weight: LinearWeight
    activation: ActivationType


class ReferenceOps:
    """``ernie_kernels.api.Ops`` in NumPy float32.

    Args:
        communicator: of this rank, if several share the model.
    """

    def __init__(self, communicator: Communicator[Floats] | None = None) -> None:
        self._communicator: Communicator[Floats] = communicator or SingleRank()

    def pack_linear(self, weight: LinearWeight, activation: ActivationType) -> ReferenceLinear:
        """Keep the weight as it is; ValueError if ``activation`` does not fit it."""
        check_activation(weight, activation)
        return ReferenceLinear(weight, activation)

    def pack_moe(
        self, banks: Sequence[ExpertBank], shared: MlpWeights | None, activation: ActivationType
    ) -> ReferenceMoe:
        """Keep the weights as they are."""
        return ReferenceMoe(tuple(map(ReferenceBank.pack, banks)), shared, activation)

    def pack_vector(self, values: Floats) -> Floats:
        """Keep the vector as float32."""
        return np.asarray(values, np.float32)

    def pack_rotary(self, spec: RotarySpec) -> RotaryTable:
        """Make the table of cosines and sines."""
        return rotary_table(spec)

    def allocate_cache(self, spec: CacheSpec) -> ReferenceCache:
        """Allocate zeroed keys and values."""
        return ReferenceCache(spec)

    def upload(self, batch: Batch) -> Batch:
        """Check the batch; it is already where it is needed."""
        check_batch(batch)
        return batch

    def embed(self, table: ReferenceLinear, batch: Batch) -> Floats:
        """Return the table's rows of the token ids."""
        values = dequantize(table.weight)
        is_here = batch.token_ids != ELSEWHERE
        check_indices("batch.token_ids", batch.token_ids[is_here], len(values))
        return np.where(is_here[:, None], values[batch.token_ids], np.float32(0))

    def norm(self, x: Floats, weight: Floats, epsilon: float) -> Floats:
        """RMSNorm."""
        return rms_norm(x, weight, epsilon)

    def add_norm(self, x: Floats, delta: Floats, weight: Floats, epsilon: float) -> tuple[Floats, Floats]:
        """Return x + delta and its RMSNorm."""
        residual = x + delta
        return residual, rms_norm(residual, weight, epsilon)

    def linear(self, x: Floats, weight: ReferenceLinear, bias: Floats | None = None) -> Floats:
        """Return x @ W.T + bias."""
        product = linear(x, weight.weight, weight.activation)
        return product if bias is None else product + bias

    def mlp(self, x: Floats, gate_up: ReferenceLinear, down: ReferenceLinear) -> Floats:
        """Return down(silu(gate(x)) * up(x))."""
        return self.linear(swiglu(self.linear(x, gate_up)), down)

    def put_rows(self, x: Floats, media: Floats, batch: Batch) -> Floats:
        """Return x with the rows of media."""
        result = x.copy()
        result[media_rows(batch, len(media))] = media
        return result

    def moe(self, x: Floats, layer: ReferenceMoe, batch: Batch) -> Floats:
        """Return shared(x) plus the weighted sum of each row's experts."""

        def mlp(rows: Floats, weights: MlpWeights) -> Floats:
            return self.mlp(
                rows, *(self.pack_linear(w, layer.activation) for w in (weights.gate_up, weights.down))
            )

        return moe(x, layer, batch.vision_rows, mlp)

    def attention(self, qkv: Floats, rotary: RotaryTable, cache: ReferenceCache, batch: Batch) -> Floats:
        """Rotate, append, attend."""
        spec = cache.spec
        check_axes(batch.positions, rotary.spec)
        heads = qkv.reshape(len(qkv), -1, spec.head_dim)
        queries, keys, values = np.split(heads, [-2 * spec.num_kv_heads, -spec.num_kv_heads], axis=1)
        angles = rotary.angles(batch.positions)
        queries, keys = (rotate(part, *angles, rotary.spec) for part in (queries, keys))
        return paged_attention(queries, keys, values, cache, batch).reshape(len(qkv), -1)

    def all_reduce(self, x: Floats) -> Floats:
        """Return the sum of the ranks' ``x``."""
        return self._communicator.all_reduce(x)

    def lm_head(self, hidden: Floats, head: ReferenceLinear, batch: Batch) -> HeadOutput:
        """Compute the logits, choose tokens."""
        logits = self._communicator.all_gather(self.linear(hidden[batch.logit_rows], head))
        return head_output(logits, batch.choices)

    def upload_rows(self, values: Floats) -> Floats:
        """Keep the matrix as it is."""
        return values

    def rows(self, x: Floats, begin: int, end: int) -> Floats:
        """Return rows ``begin`` to ``end`` - 1."""
        return x[begin:end]

    def concatenate(self, parts: Sequence[Floats]) -> Floats:
        """Return the rows of all parts."""
        return np.concatenate(parts)

    def merge_rows(self, x: Floats, indices: NDArray[np.int32]) -> Floats:
        """Return rows made of several."""
        check_indices("indices", indices, len(x))
        return x[indices].reshape(len(indices), -1)

    def layer_norm(self, x: Floats, weight: Floats, bias: Floats, epsilon: float) -> Floats:
        """LayerNorm."""
        return layer_norm(x, weight, bias, epsilon)

    def add_layer_norm(
        self, x: Floats, delta: Floats, weight: Floats, bias: Floats, epsilon: float
    ) -> tuple[Floats, Floats]:
        """Return x + delta and its LayerNorm."""
        total = x + delta
        return total, layer_norm(total, weight, bias, epsilon)

    def gelu_mlp(
        self,
        x: Floats,
        up: ReferenceLinear,
        up_bias: Floats,
        down: ReferenceLinear,
        down_bias: Floats,
        kind: Gelu,
    ) -> Floats:
        """Return down(gelu(up(x) + up_bias)) + down_bias."""
        return self.linear(gelu(self.linear(x, up, up_bias), kind), down, down_bias)

    def add_positions(self, x: Floats, table: Floats, grid: PatchGrid, begin: int) -> Floats:
        """Return patches plus their learned positions."""
        positions = table.reshape(-1, x.shape[1])
        indices, weights = position_samples(grid, math.isqrt(len(positions)))
        places = np.arange(begin, begin + len(x)) % grid.size
        added: Floats = x + (positions[indices] * weights[:, :, None]).sum(axis=1)[places]
        return added

    def pack_axial_rotary(self, grid: PatchGrid, head_dim: int, theta: float) -> AxialTable:
        """Make the table of cosines and sines."""
        return AxialTable(*axial_rotary_table(grid, head_dim, theta))

    def allocate_patches(self, spec: PatchCacheSpec) -> ReferencePatches:
        """Allocate zeroed queries, keys and values."""
        return ReferencePatches(spec)

    def append_patches(self, qkv: Floats, rotary: AxialTable, cache: ReferencePatches, begin: int) -> None:
        """Rotate, store."""
        cache.append(qkv, rotary, begin)

    def attend_patches(self, cache: ReferencePatches, begin: int, end: int) -> Floats:
        """Return the attention of patches ``begin`` to ``end`` - 1."""
        return cache.attend(begin, end)

    def sample_tokens(self, logits: Floats, batch: SamplingBatch) -> Tokens:
        """Return a token for each row of logits ``[R, V]``, see ``ernie_kernels.sampling``."""
        return sample_tokens(logits, batch)

    def apply_token_masks(self, logits: Floats, masks: TokenMasks, rows: NDArray[np.int64]) -> None:
        """Exclude tokens from rows of logits ``[R, V]``, see ``ernie_kernels.sampling``."""
        apply_token_masks(logits, masks, rows)


def rms_norm(x: Floats, weight: Floats, epsilon: float) -> Floats:
    """Return x / sqrt(mean(x^2) + epsilon) * weight, ``[T, K]``."""
    mean_square = np.mean(np.square(x), axis=1, keepdims=True)
    normed: Floats = x / np.sqrt(mean_square + np.float32(epsilon)) * weight
    return normed


def rotate(x: Floats, cosines: Floats, sines: Floats, spec: RotarySpec) -> Floats:
    """Rotate the pairs of ``x [T, heads, head_dim]`` by angles ``[T, head_dim / 2]`` (RoFormer)."""
    cosines, sines, half = cosines[:, None], sines[:, None], spec.head_dim // 2
    if spec.interleaved:
        first, second = x[..., 0::2], x[..., 1::2]
    else:
        first, second = x[..., :half], x[..., half:]
    rotated = [first * cosines - second * sines, second * cosines + first * sines]
    joined: Floats = np.stack(rotated, axis=-1) if spec.interleaved else np.concatenate(rotated, axis=-1)
    return joined.reshape(x.shape)


def swiglu(gate_up: Floats) -> Floats:
    """Return silu(gate) * up, ``[T, 2I]`` (gate first) to ``[T, I]``; silu(x) = x / (1 + exp(-x))."""
    gate, up = np.split(gate_up, 2, axis=1)
    with np.errstate(over="ignore"):  # exp(-x) = inf for a very negative x: silu is 0 there
        return gate / (1 + np.exp(-gate)) * up
