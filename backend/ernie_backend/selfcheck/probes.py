"""Probes: programs so small that what they return names a fault of a kernel, not only that there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ernie_backend.selfcheck.ops import Bench
from ernie_backend.selfcheck.report import Check
from ernie_kernels.api import ExpertBank, MlpWeights, Ops
from ernie_kernels.formats import ActivationType, Int4Weight, Int8Weight, W4A8Weight, pack_int4, quantize_int8
from ernie_kernels.routing import RouterWeights

_TOKENS, _WIDTH = 16, 128
_MOST_OFF = 0.03
"""Of a ratio that should be 1: bfloat16, int4 and static int8 codes round by less."""
_FLOAT32 = ActivationType.FLOAT32
Probe = Callable[[Bench], tuple[bool, str]]
"""Returns whether all is well, and what was found."""


def check_probes(ops: Ops) -> Iterator[Check]:
    """Yield what each probe says of a backend."""
    bench = Bench.of(ops, _TOKENS, _WIDTH)
    for name, (probe, means) in _PROBES.items():
        passed, found = _tried(probe, bench)
        yield Check(name, passed=passed, found=found, means=means)


def _tried(probe: Probe, bench: Bench) -> tuple[bool, str]:
    try:
        return probe(bench)
    except Exception as error:  # noqa: BLE001 - whatever the op raises is the result
        return False, f"{type(error).__name__}: {error}"[:300]


def _is_one(ratio: float) -> bool:
    return abs(ratio - 1) <= _MOST_OFF


def _scale_of_int8(bench: Bench) -> tuple[bool, str]:
    """Multiply by a matrix that moves each number one place to the left, whose codes are 127 and 0."""
    codes = np.zeros((_WIDTH, _WIDTH), np.int8)
    codes[np.arange(_WIDTH), (np.arange(_WIDTH) + 1) % _WIDTH] = 127
    weight = Int8Weight(codes, np.full(_WIDTH, 1 / 127, np.float32))
    x = np.random.default_rng(1).standard_normal((_TOKENS, _WIDTH)).astype(np.float32)
    y = bench.output(bench.ops.linear(bench.input(x), bench.ops.pack_linear(weight, _FLOAT32)))
    ratio = float(np.sqrt(np.mean(y.astype(np.float64) ** 2) / np.mean(x.astype(np.float64) ** 2)))
    if not _is_one(ratio):
        return False, f"results are {ratio:.3g} times as large as they should be"
    for shift, layout in ((-1, "[N, K]"), (1, "[K, N]")):
        if np.abs(y - np.roll(x, shift, axis=1)).max() < _MOST_OFF * np.abs(x).max():
            return layout == "[N, K]", f"scales are absmax, weights {layout}"
    return False, "the scale is right, the numbers are not"


def _rotation_of_w4a8(bench: Bench) -> tuple[bool, str]:
    """Send the first unit vector, times 8, through an expert whose inner numbers are rotated in one block.

    H without a factor spreads it evenly: 8 everywhere. Rows of the second matrix add these up, every other one
    with changing signs.
    """
    gate_up = np.zeros((2 * _WIDTH, _WIDTH), np.int8)
    gate_up[0, 0] = gate_up[_WIDTH, 0] = 7
    scales = np.zeros(2 * _WIDTH, np.float32)
    scales[0], scales[_WIDTH] = (
        1 / 7,
        1 / 56,
    )  # the gate is x[0] = 8, silu of which is 8; the other matrix makes 1
    down = np.full((_WIDTH, _WIDTH), 7, np.int8)
    down[1::2, 1::2] = -7
    down_scales = np.full(_WIDTH, 1 / (7 * _WIDTH), np.float32)
    expert = MlpWeights(
        W4A8Weight(Int4Weight(pack_int4(gate_up), scales, _WIDTH), 8 / 127, 0),
        W4A8Weight(Int4Weight(pack_int4(down), down_scales, _WIDTH), 8 / 127, _WIDTH),
    )
    router = RouterWeights(np.eye(2, _WIDTH, dtype=np.float32), np.zeros(2, np.float32), 2)
    x = np.zeros((_TOKENS, _WIDTH), np.float32)
    x[:, 0] = 8
    layer = bench.ops.pack_moe([ExpertBank(router, [expert] * 2)], None, _FLOAT32)
    y = bench.output(bench.ops.moe(bench.input(x), layer, bench.batch))
    even, odd = float(y[:, ::2].mean()) / 8, float(y[:, 1::2].mean()) / 8
    is_right = _is_one(even) and abs(odd) <= _MOST_OFF
    return is_right, f"a spread of {even:.3g} (1 is right), and {odd:.3g} beside it (0 is right)"


def _router(bench: Bench) -> tuple[bool, str]:
    """Choose between 64 experts whose rows of the router differ by 2^-15 in one weight.

    The last is right if x[0] is 1, and the first if it is -1. TF32 rounds such weights to 11 bits and makes
    them equal. Each expert returns its number beside a number that all return.
    """
    experts, step = 64, 2.0**-15
    random = np.random.default_rng(2)
    gate = np.tile(random.standard_normal(_WIDTH) / 16, (experts, 1))
    gate[:, :2] = 0
    gate[:, 0] = 1 + np.arange(experts) * step
    x = random.integers(-8, 9, (_TOKENS, _WIDTH)) / 8
    x[:, 0], x[:, 1] = np.where(np.arange(_TOKENS) % 2, 1.0, -1.0), 4

    def expert(index: int) -> MlpWeights:
        gate_up, down = np.zeros((2 * _WIDTH, _WIDTH), np.float32), np.zeros((_WIDTH, _WIDTH), np.float32)
        gate_up[0, 1] = gate_up[_WIDTH, 1] = 1
        down[0, 0], down[1, 0] = (index + 1) / experts, 1
        return MlpWeights(quantize_int8(gate_up), quantize_int8(down))

    router = RouterWeights(gate.astype(np.float32), np.zeros(experts, np.float32), 1)
    layer = bench.ops.pack_moe([ExpertBank(router, map(expert, range(experts)))], None, _FLOAT32)
    y = bench.output(bench.ops.moe(bench.input(x.astype(np.float32)), layer, bench.batch))
    chosen = np.rint(y[:, 0] / y[:, 1] * experts - 1)
    wrong = int((chosen != np.where(x[:, 0] > 0, experts - 1, 0)).sum())
    return not wrong, f"{wrong} of {_TOKENS} tokens go to another expert"


_PROBES: dict[str, tuple[Probe, str]] = {
    "probe, scale of int8 weights": (
        _scale_of_int8,
        "about 127 or 0.008: the kernel takes the scale of one code where it is given absmax, or the reverse",
    ),
    "probe, rotation of w4a8": (
        _rotation_of_w4a8,
        "0.09: the kernel's rotation has the factor 1 / sqrt(128), for which checkpoints do not pay; 0.008 "
        "in both: it does not rotate",
    ),
    "probe, router": (
        _router,
        "the router's product is rounded to TF32: answers are those of other experts; if the same line with "
        "XPU_PADDLE_FC_FLOAT=1 passes, set that variable",
    ),
}
