"""What goes into the experts and caches of moe_tp on the goldens' own texts, as the float32 model computes it.

Like the oracle, it shares no code with what it judges. The inputs of an expert's second matrix are measured
after the Hadamard rotation, which is that of FastDeploy's kernels: sums and differences, no factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from numerics.golden import Floats, checkpoint, golden_rows
from numerics.oracle import Oracle, read_weights

BLOCK = 128
TEXTS = [row.prompt + row.greedy for row in golden_rows("moe_tp")]


def rotated(values: Floats) -> Floats:
    """Blocks times Sylvester's matrix of ones and minus ones, in float64."""
    matrix = np.ones((1, 1))
    while len(matrix) < BLOCK:
        matrix = np.kron([[1, 1], [1, -1]], matrix)
    return np.asarray((values.reshape(-1, BLOCK).astype(np.float64) @ matrix).reshape(values.shape), np.float32)


@dataclass(frozen=True)
class MeasuringOracle(Oracle):
    """The float32 model; ``absmax`` takes what goes into experts and caches."""

    absmax: dict[str, Floats] | None = None

    def multiply(self, x: Floats, name: str) -> Floats:
        if ".mlp.experts." in name:
            seen = np.abs(rotated(x) if "down_proj" in name else x).max()
            self._keep(name, np.float32(seen))
        return super().multiply(x, name)

    def cached(self, name: str, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        self._keep(name + "keys", np.abs(keys).max(axis=0))
        self._keep(name + "values", np.abs(values).max(axis=0))
        return keys, values

    def _keep(self, name: str, absmax: Floats | np.float32) -> None:
        assert self.absmax is not None
        self.absmax[name] = np.maximum(self.absmax.get(name, np.float32(0)), absmax)


@cache
def measured_absmax() -> dict[str, Floats]:
    plain = Oracle.read(checkpoint("moe_tp"))
    oracle = MeasuringOracle(plain.config, read_weights(checkpoint("moe_tp")), absmax={})
    for text in TEXTS:
        oracle.logits(text)
    assert oracle.absmax is not None
    return oracle.absmax
