"""``ReferenceOps``: the ops interface over the functions of this package."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import ELSEWHERE, Batch, CacheSpec, MlpWeights, RotarySpec
from ernie_kernels.batch_checks import check_batch, check_indices
from ernie_kernels.communicator import Communicator, SingleRank
from ernie_kernels.formats import ActivationType, LinearWeight, check_activation, dequantize
from ernie_kernels.reference.attention import ReferenceCache, paged_attention
from ernie_kernels.reference.linear import linear
from ernie_kernels.reference.moe import ReferenceMoe, moe
from ernie_kernels.rotary import RotaryTable, rotary_table
from ernie_kernels.routing import RouterWeights, check_experts, check_router
from ernie_kernels.sampling import SamplingBatch, TokenMasks, apply_token_masks, sample_tokens

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
        self,
        router: RouterWeights,
        experts: Iterable[MlpWeights],
        shared: MlpWeights | None,
        activation: ActivationType,
        local_experts: range | None = None,
    ) -> ReferenceMoe:
        """Keep the weights as they are."""
        local_experts = check_router(router, local_experts)
        kept = tuple(experts)
        check_experts(local_experts, len(kept))
        return ReferenceMoe(router, kept, shared, activation, local_experts)

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

    def linear(self, x: Floats, weight: ReferenceLinear) -> Floats:
        """Return x @ W.T."""
        return linear(x, weight.weight, weight.activation)

    def mlp(self, x: Floats, gate_up: ReferenceLinear, down: ReferenceLinear) -> Floats:
        """Return down(silu(gate(x)) * up(x))."""
        return self.linear(swiglu(self.linear(x, gate_up)), down)

    def moe(self, x: Floats, layer: ReferenceMoe) -> Floats:
        """Return shared(x) plus the weighted sum of each row's experts."""

        def mlp(rows: Floats, weights: MlpWeights) -> Floats:
            return self.mlp(
                rows, *(self.pack_linear(w, layer.activation) for w in (weights.gate_up, weights.down))
            )

        return moe(x, layer, mlp)

    def attention(self, qkv: Floats, rotary: RotaryTable, cache: ReferenceCache, batch: Batch) -> Floats:
        """Rotate, append, attend."""
        spec = cache.spec
        check_indices("batch.positions", batch.positions, rotary.spec.max_positions)
        heads = qkv.reshape(len(qkv), -1, spec.head_dim)
        queries, keys, values = np.split(heads, [-2 * spec.num_kv_heads, -spec.num_kv_heads], axis=1)
        queries, keys = (rotate(part, batch.positions, rotary) for part in (queries, keys))
        return paged_attention(queries, keys, values, cache, batch).reshape(len(qkv), -1)

    def all_reduce(self, x: Floats) -> Floats:
        """Return the sum of the ranks' ``x``."""
        return self._communicator.all_reduce(x)

    def lm_head(self, hidden: Floats, head: ReferenceLinear, batch: Batch) -> Floats:
        """Return the logits of the batch's ``logit_rows``."""
        return self._communicator.all_gather(self.linear(hidden[batch.logit_rows], head))

    def sample_tokens(self, logits: Floats, batch: SamplingBatch) -> NDArray[np.int64]:
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


def rotate(x: Floats, positions: NDArray[np.int32], table: RotaryTable) -> Floats:
    """Rotate the pairs of ``x [T, heads, head_dim]`` by each token's position (RoFormer)."""
    cosines, sines = table.cosines[positions][:, None], table.sines[positions][:, None]
    half = table.spec.head_dim // 2
    if table.spec.interleaved:
        first, second = x[..., 0::2], x[..., 1::2]
    else:
        first, second = x[..., :half], x[..., half:]
    rotated = [first * cosines - second * sines, second * cosines + first * sines]
    joined: Floats
    joined = np.stack(rotated, axis=-1) if table.spec.interleaved else np.concatenate(rotated, axis=-1)
    return joined.reshape(x.shape)


def swiglu(gate_up: Floats) -> Floats:
    """Return silu(gate) * up, ``[T, 2I]`` (gate first) to ``[T, I]``; silu(x) = x / (1 + exp(-x))."""
    gate, up = np.split(gate_up, 2, axis=1)
    with np.errstate(over="ignore"):  # exp(-x) = inf for a very negative x: silu is 0 there
        return gate / (1 + np.exp(-gate)) * up
