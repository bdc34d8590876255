"""Every op of a backend against the NumPy reference, on small random inputs.

Arrays are opaque, so inputs come from ``embed`` and results leave through ``lm_head`` with the unit matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ernie_backend.selfcheck.report import Check, Floats, compared
from ernie_kernels.api import Batch, CacheSpec, ExpertBank, MlpWeights, Ops, RotarySpec, UnsupportedError
from ernie_kernels.formats import (
    ActivationType,
    Bfloat16Weight,
    Float32Weight,
    LinearWeight,
    float32_to_bfloat16,
    quantize_int4,
    quantize_int8,
    quantize_w4a8,
)
from ernie_kernels.patches import PatchCacheSpec, PatchGrid
from ernie_kernels.reference import ReferenceOps
from ernie_kernels.routing import RouterWeights
from ernie_kernels.sampling import GREEDY, SamplingFilters, TokenChoices, sampling_batch

_TOKENS, _WIDTH, _INNER, _EXPERTS = 24, 128, 256, 8
_PROMPT, _HEADS, _KV_HEADS, _HEAD_DIM, _BLOCK = 100, 8, 2, 64, 64
_QKV = (_HEADS + 2 * _KV_HEADS) * _HEAD_DIM
_VOCAB = 103_424
"""Of ERNIE-4.5."""
_INPUT_ABSMAX = 1.0
"""Of the inputs of W4A8 experts: about the largest here, so that one code more or less is little."""
_FORMATS: dict[str, Callable[[Floats], LinearWeight]] = {
    "bf16": lambda values: Bfloat16Weight(float32_to_bfloat16(values)),
    "wint8": quantize_int8,
    "wint4": quantize_int4,
    "w4a8": lambda values: quantize_w4a8(values, input_absmax=_INPUT_ABSMAX, rotation=_WIDTH),
}
_MEANINGS = {
    "bf16": "products of bfloat16 weights are wrong: check the driver and Paddle's version",
    "wint8": "an error near 1 or 126: scales are absmax / 127 where the kernel takes absmax, or the reverse",
    "wint4": "an error near 1: the two codes of a byte are in the other order",
    "w4a8": "an error near 1 or 10: the Hadamard rotation has another factor than 1",
}


@dataclass(frozen=True)
class Bench:
    """The ops of a backend, with a step's batch of one sequence.

    Attributes:
        ops: the backend's.
        batch: the step on the device.
        width: numbers of a row of results.
    """

    ops: Ops
    batch: Any
    width: int

    @classmethod
    def of(cls, ops: Ops, tokens: int = _TOKENS, width: int = _WIDTH) -> Bench:
        """Upload a step of ``tokens`` tokens."""
        return cls(ops, ops.upload(_batch(0, tokens)), width)

    def input(self, values: Floats) -> Any:  # noqa: ANN401 - an opaque array
        """Return ``[T, K]`` on the device."""
        table = self.ops.pack_linear(Float32Weight(values), ActivationType.FLOAT32)
        return self.ops.embed(table, self.batch)

    def output(self, x: Any, batch: Any = None) -> Floats:  # noqa: ANN401 - an opaque array
        """Return an array of the step, or of another, on the host."""
        unit = self.ops.pack_linear(Float32Weight(np.eye(self.width, dtype=np.float32)), ActivationType.FLOAT32)
        return self.ops.lm_head(x, unit, self.batch if batch is None else batch).logits


def check_ops(ops: Ops, tolerance: float) -> Iterator[Check]:
    """Yield a comparison of each op with the reference.

    Args:
        ops: of the backend.
        tolerance: largest relative error, which depends on the type of the backend's activations.
    """
    reference = Bench.of(ReferenceOps())
    bench = Bench.of(ops)
    for name, (program, means) in _PROGRAMS.items():
        expected = program(reference)
        try:
            actual = program(bench)
        except UnsupportedError as error:
            yield Check(
                name, passed=True, found=f"refused: {error}", means="the backend says what to use instead"
            )
        except Exception as error:  # noqa: BLE001 - whatever the op raises is the result
            yield Check(name, passed=False, found=f"{type(error).__name__}: {error}"[:300], means=means)
        else:
            yield compared(name, expected, actual, tolerance, means)


def _embed(bench: Bench) -> Floats:
    return bench.output(bench.input(_floats(1, _TOKENS, _WIDTH)))


def _norm(bench: Bench) -> Floats:
    x, delta = bench.input(_floats(1, _TOKENS, _WIDTH)), bench.input(_floats(2, _TOKENS, _WIDTH))
    weight = bench.ops.pack_vector(_floats(3, _WIDTH))
    _, normed = bench.ops.add_norm(x, delta, weight, 1e-5)
    return bench.output(bench.ops.norm(normed, weight, 1e-5))


def _linear(name: str) -> Callable[[Bench], Floats]:
    def program(bench: Bench) -> Floats:
        weight = bench.ops.pack_linear(_FORMATS[name](_floats(4, _WIDTH, _WIDTH)), ActivationType.FLOAT32)
        return bench.output(bench.ops.linear(bench.input(_floats(1, _TOKENS, _WIDTH)), weight))

    return program


def _mlp(bench: Bench) -> Floats:
    gate_up, down = (
        bench.ops.pack_linear(_FORMATS["bf16"](values), ActivationType.FLOAT32)
        for values in (_floats(5, 2 * _INNER, _WIDTH, scale=0.1), _floats(6, _WIDTH, _INNER, scale=0.1))
    )
    return bench.output(bench.ops.mlp(bench.input(_floats(1, _TOKENS, _WIDTH)), gate_up, down))


def _layer_norm(bench: Bench) -> Floats:
    x, delta = bench.input(_floats(1, _TOKENS, _WIDTH)), bench.input(_floats(2, _TOKENS, _WIDTH))
    weight, bias = (bench.ops.pack_vector(_floats(seed, _WIDTH)) for seed in (3, 4))
    _, normed = bench.ops.add_layer_norm(x, delta, weight, bias, 1e-5)
    return bench.output(bench.ops.layer_norm(normed, weight, bias, 1e-5))


def _gelu_mlp(bench: Bench) -> Floats:
    up, down = (
        bench.ops.pack_linear(_FORMATS["bf16"](values), ActivationType.FLOAT32)
        for values in (_floats(5, _INNER, _WIDTH, scale=0.1), _floats(6, _WIDTH, _INNER, scale=0.1))
    )
    biases = [bench.ops.pack_vector(_floats(seed, size)) for seed, size in ((7, _INNER), (8, _WIDTH))]
    x = bench.input(_floats(1, _TOKENS, _WIDTH))
    return bench.output(bench.ops.gelu_mlp(x, up, biases[0], down, biases[1], "tanh"))


def _rows(bench: Bench) -> Floats:
    """Rows of media in place of others; then pairs of rows side by side, of which every other half is taken."""
    rows = np.array([1, 4, 5], np.int32)
    step = bench.ops.upload(replace(_batch(0, _TOKENS), media_rows=rows))
    media = bench.ops.upload_rows(_floats(2, len(rows), _WIDTH // 2))
    x = bench.ops.put_rows(bench.ops.upload_rows(_floats(1, _TOKENS, _WIDTH // 2)), media, step)
    pairs = np.stack([np.arange(_TOKENS), np.arange(_TOKENS)[::-1]], axis=1).astype(np.int32)
    merged = bench.ops.merge_rows(x, pairs)
    halves = [bench.ops.rows(merged, begin, begin + _TOKENS // 2) for begin in (_TOKENS // 2, 0)]
    return bench.output(bench.ops.concatenate(halves))


def _patches(bench: Bench) -> Floats:
    """Patches of one frame with learned positions and axial rotation, all to all."""
    grid = PatchGrid(_TOKENS // 4, 4, block=2)
    ops, heads, side = bench.ops, 2, 3
    table = ops.pack_vector(_floats(2, side * side * 3 * _WIDTH))
    qkv = ops.add_positions(ops.upload_rows(_floats(1, _TOKENS, 3 * _WIDTH)), table, grid, 0)
    cache = ops.allocate_patches(PatchCacheSpec(_TOKENS, _TOKENS, heads, _WIDTH // heads, "float32"))
    ops.append_patches(qkv, ops.pack_axial_rotary(grid, _WIDTH // heads, 10000.0), cache, 0)
    return bench.output(ops.attend_patches(cache, 0, _TOKENS))


def _choice(given: Bench) -> Floats:
    """Choose by every filter in a whole vocabulary, of logits exact in bfloat16: columns of the head."""
    filters = (
        GREEDY,
        SamplingFilters(0.3, top_p=0.8),
        SamplingFilters(1.0, top_k=1000),
        SamplingFilters(0.5, 0.01, 50, 0.9),
    )
    rows, width = len(filters), 32
    bench = Bench.of(given.ops, rows, width)
    values = _floats(2, _VOCAB, width, scale=2.0)
    values[-4:] = 16  # padding, which would win
    head = bench.ops.pack_linear(_FORMATS["bf16"](values), ActivationType.FLOAT32)
    sampling = sampling_batch((each, 0.5) for each in filters)
    choices = TokenChoices(np.arange(rows, dtype=np.int32), sampling, _VOCAB - 8)
    step = bench.ops.upload(replace(_batch(0, rows), choices=choices))
    hidden = bench.input(np.eye(rows, width, dtype=np.float32))
    tokens = bench.ops.lm_head(hidden, head, step).tokens
    # A row for each token: a neighbor is as wrong as any other.
    one_hot: Floats = (tokens[:, None] == np.arange(_VOCAB)).astype(np.float32)
    return one_hot


def _moe(name: str) -> Callable[[Bench], Floats]:
    def program(bench: Bench) -> Floats:
        make = _FORMATS[name]
        # In W4A8 only the inputs of the second matrix are rotated.
        first = (lambda values: quantize_w4a8(values, input_absmax=_INPUT_ABSMAX)) if name == "w4a8" else make
        experts = [
            MlpWeights(
                first(_floats(10 + each, 2 * _INNER, _WIDTH, scale=0.1)),
                make(_floats(30 + each, _WIDTH, _INNER, scale=0.1)),
            )
            for each in range(_EXPERTS)
        ]
        # Well-separated scores: which experts are chosen must not depend on the last bits.
        gate = _floats(7, _EXPERTS, _WIDTH)
        router = RouterWeights(gate, np.zeros(_EXPERTS, np.float32), experts_per_token=_EXPERTS)
        moe = bench.ops.pack_moe([ExpertBank(router, experts)], None, ActivationType.FLOAT32)
        x = bench.input(_floats(1, _TOKENS, _WIDTH, scale=0.2))
        return bench.output(bench.ops.moe(x, moe, bench.batch))

    return program


def _attention(dtype: str) -> Callable[[Bench], Floats]:
    """Return a prompt and one token after it: grouped heads, two blocks of the cache."""

    def program(given: Bench) -> Floats:
        ops = given.ops
        rotary = ops.pack_rotary(RotarySpec(_HEAD_DIM, 2 * _BLOCK, 500000.0))
        cache = ops.allocate_cache(CacheSpec(3, _BLOCK, _KV_HEADS, _HEAD_DIM, dtype))
        # As in an engine, whose caches come before its steps.
        bench = Bench.of(ops, _PROMPT, _HEADS * _HEAD_DIM)
        prompt = ops.attention(bench.input(_floats(8, _PROMPT, _QKV)), rotary, cache, bench.batch)
        following = ops.upload(_batch(_PROMPT, 1))
        table = ops.pack_linear(Float32Weight(_floats(9, 1, _QKV)), ActivationType.FLOAT32)
        answer = ops.attention(ops.embed(table, following), rotary, cache, following)
        return np.concatenate([bench.output(prompt), bench.output(answer, following)])

    return program


def _attention_to_media(is_interleaved: bool) -> Callable[[Bench], Floats]:
    """Return two prompts in one step, whose tokens have other places on three axes; then a token of each."""
    axes = (1, 2) * (_HEAD_DIM // 8) + (0,) * (_HEAD_DIM // 4)
    tokens = np.array([5, 3], np.int32)
    steps = ((np.zeros(2, np.int32), tokens), (tokens, np.ones(2, np.int32)))

    def program(given: Bench) -> Floats:
        ops = given.ops
        rotary = ops.pack_rotary(RotarySpec(_HEAD_DIM, _BLOCK, 500000.0, is_interleaved, axes=axes))
        cache = ops.allocate_cache(CacheSpec(3, _BLOCK, _KV_HEADS, _HEAD_DIM, "bfloat16"))
        bench = Bench.of(ops, int(tokens.sum()), _HEADS * _HEAD_DIM)
        results = []
        for context, counts in steps:
            rows = int(counts.sum())
            batch = replace(
                _batch(0, rows),
                positions=np.random.default_rng(rows).integers(0, _BLOCK, (3, rows), np.int32),
                query_starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
                context_lengths=context,
                block_tables=np.array([[2], [0]], np.int32),
            )
            step = ops.upload(batch)
            table = ops.pack_linear(Float32Weight(_floats(rows, rows, _QKV)), ActivationType.FLOAT32)
            results.append(bench.output(ops.attention(ops.embed(table, step), rotary, cache, step), step))
        return np.concatenate(results)

    return program


_PROGRAMS: dict[str, tuple[Callable[[Bench], Floats], str]] = {
    "embed and lm_head": (_embed, "nothing else can be trusted: copies to and from the device are wrong"),
    "norm, add_norm": (_norm, "RMSNorm is wrong"),
    **{f"linear {name}": (_linear(name), means) for name, means in _MEANINGS.items() if name != "w4a8"},
    "mlp": (_mlp, "silu, or the order of gate and up, is wrong"),
    "choice of tokens": (
        _choice,
        "tokens chosen on the device are not those of their logits: topk of 1,024, or cumsum, of 103,424",
    ),
    "rows of media": (_rows, "rows are gathered from wrong places"),
    "layer_norm": (_layer_norm, "LayerNorm of vision towers is wrong"),
    "gelu_mlp": (_gelu_mlp, "gelu, or a bias, of vision towers is wrong"),
    "attention of patches": (_patches, "positions or attention of vision towers are wrong"),
    **{f"moe {name}": (_moe(name), means) for name, means in _MEANINGS.items()},
    **{
        f"attention, {dtype} cache": (
            _attention(dtype),
            "grouped heads read wrong keys (a product broadcasts heads), or the cache's layout is wrong",
        )
        for dtype in ("float32", "bfloat16", "int8")
    },
    **{
        f"attention, media of {family}": (
            _attention_to_media(is_interleaved),
            "rotary tables are not looked up by the row of the block table, or pairs are others",
        )
        for family, is_interleaved in (("VL", True), ("PaddleOCR-VL", False))
    },
}


def _batch(context: int, tokens: int) -> Batch:
    return Batch(
        token_ids=np.arange(tokens, dtype=np.int32),
        positions=np.arange(context, context + tokens, dtype=np.int32),
        query_starts=np.array([0, tokens], np.int32),
        context_lengths=np.array([context], np.int32),
        block_tables=np.array([[2, 0]], np.int32),
        logit_rows=np.arange(tokens, dtype=np.int32),
    )


def _floats(seed: int, *shape: int, scale: float = 1.0) -> Floats:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)
