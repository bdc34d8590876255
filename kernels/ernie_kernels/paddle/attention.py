"""Causal attention over the paged KV cache, as Paddle ops.

It is float32: an XPU multiplies float32 with operands of TF32, which hold a bfloat16 number exactly, and gives
sums in float32, where its bfloat16 product would round every score to 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from ernie_kernels.paddle.cache import PagedCache
from ernie_kernels.paddle.place import Tensor, paddle
from ernie_kernels.paddle.step import AttentionPlan, DeviceGroup

_HIDDEN = -1e9
"""Added to the scores of keys that a query must not see: exp of it is exactly 0 in float32."""


def attend(queries: Tensor, cache: PagedCache, plan: AttentionPlan) -> Tensor:
    """Return causal attention of rotated ``queries [T, heads, head_dim]``: ``[T, heads * head_dim]``."""
    results = [_attend_group(queries, cache, group) for group in plan.groups]
    together = results[0] if len(results) == 1 else paddle.concat(results)
    return paddle.gather(together, plan.order)


@dataclass(frozen=True)
class _Softmax:
    """A softmax over the keys so far of R queries: their largest scores, and sums relative to these.

    Attributes:
        maximum: ``[N, kv_heads, R, 1]``.
        total: of exp(score - maximum), of the same shape.
        values: of exp(score - maximum) * value: ``[N, kv_heads, R, head_dim]``.
    """

    maximum: Tensor
    total: Tensor
    values: Tensor

    @classmethod
    def of_block(cls, scores: Tensor, values: Tensor) -> _Softmax:
        """Return that of one block: ``scores [N, kv_heads, R, L]``, ``values [N, kv_heads, L, head_dim]``."""
        maximum = paddle.max(scores, axis=-1, keepdim=True)
        weights = paddle.exp(scores - maximum)
        return cls(maximum, paddle.sum(weights, axis=-1, keepdim=True), paddle.matmul(weights, values))

    def joined(self, other: _Softmax) -> _Softmax:
        """Return that over the keys of both."""
        maximum = paddle.maximum(self.maximum, other.maximum)
        mine, others = (paddle.exp(each.maximum - maximum) for each in (self, other))
        return _Softmax(
            maximum,
            self.total * mine + other.total * others,
            self.values * mine + other.values * others,
        )


def _attend_group(queries: Tensor, cache: PagedCache, group: DeviceGroup) -> Tensor:
    """Attend N sequences with Q queries each, a block of keys at a time; G query heads share a kv head.

    Masks apply to ``[N, kv_heads, G, Q, L]``. In products the queries are the rows of one matrix for each kv
    head, ``[N, kv_heads, G * Q, ...]``: an XPU does not broadcast one batch of matrices over another but reads
    past the smaller one.
    """
    _, heads, head_dim = queries.shape
    sequences, count, kv_heads = group.num_sequences, group.num_queries, cache.spec.num_kv_heads
    apart = (sequences, kv_heads, heads // kv_heads, count)
    merged = (sequences, kv_heads, heads // kv_heads * count)
    grouped = paddle.gather(queries, group.rows).reshape((sequences, count, *apart[1:3], head_dim))
    grouped = (grouped * head_dim**-0.5).transpose((0, 2, 3, 1, 4)).reshape((*merged, head_dim))
    softmax: _Softmax | None = None
    for block in group.key_blocks:
        keys, values = cache.contexts(block.slots, sequences)
        scores = paddle.matmul(grouped, keys, transpose_y=True)
        if block.positions is not None:
            is_after = paddle.greater_than(block.positions, group.positions).astype("float32")
            scores = (scores.reshape((*apart, -1)) + is_after * _HIDDEN).reshape((*merged, -1))
        part = _Softmax.of_block(scores, values)
        softmax = part if softmax is None else softmax.joined(part)
    assert softmax is not None  # noqa: S101 - every query sees itself
    attended = (softmax.values / softmax.total).reshape((*apart, head_dim)).transpose((0, 3, 1, 2, 4))
    return attended.reshape((sequences * count, heads * head_dim))
