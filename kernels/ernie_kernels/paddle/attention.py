"""Causal attention over the paged KV cache in float32, as Paddle ops."""

from __future__ import annotations

from ernie_kernels.paddle.cache import PagedCache
from ernie_kernels.paddle.place import Tensor, paddle
from ernie_kernels.paddle.step import AttentionPlan, SequenceGroup

_HIDDEN = -1e9
"""Added to the scores of keys that a query must not see: exp of it is exactly 0 in float32."""


def attend(queries: Tensor, cache: PagedCache, plan: AttentionPlan) -> Tensor:
    """Return causal attention of rotated ``queries`` ``[T, heads, head_dim]``: ``[T, heads * head_dim]``."""
    results = [_attend_group(queries, cache, group) for group in plan.groups]
    together = results[0] if len(results) == 1 else paddle.concat(results)
    return paddle.gather(together, plan.order)


def _attend_group(queries: Tensor, cache: PagedCache, group: SequenceGroup) -> Tensor:
    """Attend N sequences with Q queries each; G query heads share a kv head.

    Masks apply to ``[N, kv_heads, G, Q, L]``. In products the queries are the rows of one matrix for each kv
    head, ``[N, kv_heads, G * Q, ...]``: an XPU does not broadcast one batch of matrices over another but reads
    past the smaller one.
    """
    _, heads, head_dim = queries.shape
    sequences, count, kv_heads = group.num_sequences, group.num_queries, cache.spec.num_kv_heads
    apart = (sequences, kv_heads, heads // kv_heads, count)
    merged = (sequences, kv_heads, heads // kv_heads * count)
    keys, values = cache.contexts(group)
    grouped = paddle.gather(queries, group.rows).reshape((sequences, count, *apart[1:3], head_dim))
    grouped = grouped.transpose((0, 2, 3, 1, 4)).reshape((*merged, head_dim))
    scores = paddle.matmul(grouped, keys, transpose_y=True) * head_dim**-0.5
    is_after = paddle.greater_than(group.key_positions, group.query_positions)
    masked = scores.reshape((*apart, -1)) + is_after.astype("float32") * _HIDDEN
    weights = paddle.nn.functional.softmax(masked).reshape((*merged, -1))
    attended = paddle.matmul(weights, values).reshape((*apart, head_dim)).transpose((0, 3, 1, 2, 4))
    return attended.reshape((sequences * count, heads * head_dim))
