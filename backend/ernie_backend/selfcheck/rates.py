"""How fast a backend is at what decides the speed of a model; each figure also shows a known fault."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ernie_backend.config.fields import ConfigFields
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.models.base import Model
from ernie_backend.models.load import build_model
from ernie_backend.selfcheck.report import Check
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_backend.weights.dummy import DummyWeights
from ernie_kernels.api import Batch, CacheSpec, LayerCache, Ops, RotarySpec
from ernie_kernels.formats import ActivationType, Bfloat16Weight, float32_to_bfloat16
from ernie_kernels.sampling import HeadOutput, SamplingFilters, TokenChoices, sampling_batch

_ROWS, _WIDTH = 512, 2048
_HEADS, _KV_HEADS, _HEAD_DIM, _BLOCK = 16, 4, 128, 64
_SMALL_POOL, _LARGE_POOL = 16, 1024
_WARM_UP, _REPEATS = 2, 5
_LARGEST_POOL_RATIO = 4.0
_SAMPLED, _VOCAB, _NARROW = 16, 103_424, 64
_LONG = 256 * _BLOCK
_AXES = (1, 2) * 22 + (0,) * 20
"""Those of ERNIE-4.5-VL."""
_REQUESTS = (1, 16)
_MODEL: Mapping[str, Any] = {
    "architectures": ["Ernie4_5ForCausalLM"],
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 256,
}
"""Layers as those of ERNIE-4.5-0.3B, fewer, with fewer words."""


def measure_rates(ops: Ops) -> Iterator[Check]:
    """Yield the rate of a bfloat16 product, whether a token's time grows with the cache, and tokens/s."""
    seconds = _product_seconds(ops)
    rate = 2 * _ROWS * _WIDTH**2 / seconds / 1e9
    yield Check(
        "rate, bf16 product",
        passed=True,
        found=f"{rate:.0f} GFLOP/s ({_ROWS} rows, {_WIDTH} x {_WIDTH}, {seconds * 1e3:.2f} ms)",
        means="",
        rate=rate,
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
    short, long = (_token_seconds(ops, _SMALL_POOL, length, _AXES) for length in (_BLOCK, _LONG))
    yield Check(
        "rate, one token with longer rotary tables",
        passed=long / short <= _LARGEST_POOL_RATIO,
        found=f"{long / short:.1f} times the time with {_LONG // _BLOCK} times the positions, allowed "
        f"{_LARGEST_POOL_RATIO:g} ({short * 1e3:.2f} and {long * 1e3:.2f} ms)",
        means="a model that sees copies all rotary tables in every step (scatter is not in place here)",
    )
    chosen, copied = (_head_seconds(ops, is_chosen=each) for each in (True, False))
    yield Check(
        "rate, choice of tokens",
        passed=True,
        found=f"{chosen * 1e3:.2f} ms for {_SAMPLED} rows of {_VOCAB} with top_p; {copied * 1e3:.2f} ms if "
        "their logits come to the host instead, where they are not yet sampled",
        means="",
    )
    yield from _token_rates(ops)


def _head_seconds(ops: Ops, *, is_chosen: bool) -> float:
    """Return the seconds of an output head, with tokens chosen by top_p on the device or with their logits."""
    random = np.random.default_rng(1)
    table, head = (
        ops.pack_linear(
            Bfloat16Weight(float32_to_bfloat16(random.standard_normal((rows, _NARROW)).astype(np.float32))),
            ActivationType.BFLOAT16,
        )
        for rows in (_SAMPLED, _VOCAB)
    )
    batch = _batch(_SAMPLED, -(-_SAMPLED // _BLOCK), num_logits=_SAMPLED)
    if is_chosen:
        sampling = sampling_batch([(SamplingFilters(0.8, top_p=0.8), 0.5)] * _SAMPLED)
        batch = replace(batch, choices=TokenChoices(batch.logit_rows, sampling, _VOCAB))
    step = ops.upload(batch)
    hidden = ops.embed(table, step)
    return _median_seconds(partial(ops.lm_head, hidden, head, step))


def _product_seconds(ops: Ops) -> float:
    bits = np.full((_WIDTH, _WIDTH), 0x3C00, np.uint16)
    weight = ops.pack_linear(Bfloat16Weight(bits), ActivationType.BFLOAT16)
    batch = ops.upload(_batch(_ROWS, _ROWS // _BLOCK, num_logits=1))
    x = ops.embed(weight, batch)

    def product() -> Any:  # noqa: ANN401 - an opaque array
        return ops.lm_head(ops.linear(x, weight), weight, batch)  # its logits on the host: it has ended

    return _median_seconds(product)


def _token_seconds(ops: Ops, num_blocks: int, positions: int = _BLOCK, axes: tuple[int, ...] = ()) -> float:
    """Return the seconds of one token's attention over a short context in a cache of ``num_blocks``."""
    rotary = ops.pack_rotary(RotarySpec(_HEAD_DIM, positions, 500000.0, axes=axes))
    cache = ops.allocate_cache(CacheSpec(num_blocks, _BLOCK, _KV_HEADS, _HEAD_DIM, "bfloat16"))
    width = (_HEADS + 2 * _KV_HEADS) * _HEAD_DIM
    table = ops.pack_linear(Bfloat16Weight(np.full((1, width), 0x3C00, np.uint16)), ActivationType.BFLOAT16)
    head = np.full((1, _HEADS * _HEAD_DIM), 0x3C00, np.uint16)
    one_logit = ops.pack_linear(Bfloat16Weight(head), ActivationType.BFLOAT16)

    def token() -> Any:  # noqa: ANN401 - an opaque array
        batch = ops.upload(_batch(1, 1, num_logits=1))
        return ops.lm_head(ops.attention(ops.embed(table, batch), rotary, cache, batch), one_logit, batch)

    return _median_seconds(token)


def _token_rates(ops: Ops) -> Iterator[Check]:
    """Yield how many tokens a second a few layers of a released model decode, of random weights."""
    config = ModelConfig.from_fields(ConfigFields(Path("config.json"), dict(_MODEL)))
    settings = LoadSettings("bfloat16", None, ActivationType.BFLOAT16, _BLOCK)
    model = build_model(config, DummyWeights(config, "bfloat16", None), ops, settings)
    spec = CacheSpec(max(_REQUESTS), _BLOCK, config.num_kv_heads, config.head_dim, "bfloat16")
    caches = [ops.allocate_cache(spec) for _ in range(config.num_layers)]
    for requests in _REQUESTS:
        batch = _decoding(requests)
        seconds = _median_seconds(partial(_step, ops, model, caches, batch))
        yield Check(
            f"rate, tokens of {requests} request{'s' if requests > 1 else ''}",
            passed=True,
            found=f"{requests / seconds:.0f} tokens/s with {config.num_layers} of the 18 layers of "
            f"ERNIE-4.5-0.3B, bf16 ({seconds * 1e3:.2f} ms a step)",
            means="",
            rate=requests / seconds,
        )


def _step(ops: Ops, model: Model, caches: Sequence[LayerCache], batch: Batch) -> HeadOutput:
    return model.forward(ops.upload(batch), caches)


def _decoding(requests: int) -> Batch:
    """Return a step in which each request has a block of its own, full but for the step's token."""
    context = np.full(requests, _BLOCK - 1, np.int32)
    return Batch(
        token_ids=np.arange(requests, dtype=np.int32),
        positions=context,
        query_starts=np.arange(requests + 1, dtype=np.int32),
        context_lengths=context,
        block_tables=np.arange(requests, dtype=np.int32)[:, None],
        logit_rows=np.arange(requests, dtype=np.int32),
    )


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
