"""How fast a backend is at what decides the speed of a model; each figure also shows a known fault."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ernie_backend.selfcheck.report import Check
from ernie_kernels.api import Batch, CacheSpec, Ops, RotarySpec
from ernie_kernels.formats import ActivationType, Bfloat16Weight

_ROWS, _WIDTH = 512, 2048
_HEADS, _KV_HEADS, _HEAD_DIM, _BLOCK = 16, 4, 128, 64
_SMALL_POOL, _LARGE_POOL = 16, 1024
_WARM_UP, _REPEATS = 2, 5
_LARGEST_POOL_RATIO = 4.0


def measure_rates(ops: Ops) -> Iterator[Check]:
    """Yield the rate of a product of bfloat16, and whether the time of a token depends on the cache's size."""
    seconds = _product_seconds(ops)
    rate = 2 * _ROWS * _WIDTH**2 / seconds / 1e9
    yield Check(
        "rate, bf16 product",
        passed=True,
        found=f"{rate:.0f} GFLOP/s ({_ROWS} rows, {_WIDTH} x {_WIDTH}, {seconds * 1e3:.2f} ms)",
        means="",
    )
    small, large = (_token_seconds(ops, blocks) for blocks in (_SMALL_POOL, _LARGE_POOL))
    ratio = large / small
    yield Check(
        "rate, one token with a larger cache",
        passed=ratio <= _LARGEST_POOL_RATIO,
        found=f"{ratio:.1f} times the time with {_LARGE_POOL // _SMALL_POOL} times the blocks, allowed "
        f"{_LARGEST_POOL_RATIO:g} ({small * 1e3:.2f} and {large * 1e3:.2f} ms)",
        means="appending a token copies the whole cache (scatter is not in place on this device)",
    )


def _product_seconds(ops: Ops) -> float:
    bits = np.full((_WIDTH, _WIDTH), 0x3C00, np.uint16)
    weight = ops.pack_linear(Bfloat16Weight(bits), ActivationType.BFLOAT16)
    batch = ops.upload(_batch(_ROWS, _ROWS // _BLOCK, num_logits=1))
    x = ops.embed(weight, batch)

    def product() -> Any:  # noqa: ANN401 - an opaque array
        return ops.lm_head(ops.linear(x, weight), weight, batch)  # its logits on the host: it has ended

    return _median_seconds(product)


def _token_seconds(ops: Ops, num_blocks: int) -> float:
    """Return the seconds of one token's attention over a short context in a cache of ``num_blocks``."""
    cache = ops.allocate_cache(CacheSpec(num_blocks, _BLOCK, _KV_HEADS, _HEAD_DIM, "bfloat16"))
    rotary = ops.pack_rotary(RotarySpec(_HEAD_DIM, _BLOCK, 500000.0))
    width = (_HEADS + 2 * _KV_HEADS) * _HEAD_DIM
    table = ops.pack_linear(Bfloat16Weight(np.full((1, width), 0x3C00, np.uint16)), ActivationType.BFLOAT16)
    head = np.full((1, _HEADS * _HEAD_DIM), 0x3C00, np.uint16)
    one_logit = ops.pack_linear(Bfloat16Weight(head), ActivationType.BFLOAT16)
    batch = ops.upload(_batch(1, 1, num_logits=1))

    def token() -> Any:  # noqa: ANN401 - an opaque array
        return ops.lm_head(ops.attention(ops.embed(table, batch), rotary, cache, batch), one_logit, batch)

    return _median_seconds(token)


def _batch(tokens: int, blocks: int, num_logits: int) -> Batch:
    return Batch(
        token_ids=np.arange(tokens, dtype=np.int32),
        positions=np.arange(tokens, dtype=np.int32),
        query_starts=np.array([0, tokens], np.int32),
        context_lengths=np.array([0], np.int32),
        block_tables=np.arange(blocks, dtype=np.int32)[None],
        logit_rows=np.arange(num_logits, dtype=np.int32),
    )


def _median_seconds(work: Callable[[], Any]) -> float:
    for _ in range(_WARM_UP):
        work()
    seconds = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return max(float(np.median(seconds)), 1e-9)
