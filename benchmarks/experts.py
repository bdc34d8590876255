"""Speed of a layer of experts beside a dense MLP with as many bytes of weights as the chosen experts have.

    .venv/bin/python benchmarks/experts.py --threads 2 --rows 1 8 128

One row reads the weights of its experts and of no others; a dense MLP of that width reads as many bytes in one
stream. What the layer takes more is the router, gathering, adding up, and what threads wait for each other.
Both take turns, so that a noisy machine slows them alike; figures are medians, the best beside them.
``--cpu-time`` counts the processor time of all threads. Sizes are those of the 21B model: 64 experts of width
1536, 6 for a row, hidden size 2560.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from ernie_kernels.api import Batch, ExpertBank, MlpWeights, Moe
from ernie_kernels.cpu import CpuOps
from ernie_kernels.formats import ActivationType, Int4Weight, Int8Weight, LinearWeight
from ernie_kernels.routing import RouterWeights

HIDDEN, WIDTH, EXPERTS, CHOSEN = 2560, 1536, 64, 6


def random_weight(name: str, outputs: int, inputs: int) -> LinearWeight:
    """Return an int8 or int4 weight ``[outputs, inputs]``."""
    random, scales = np.random.default_rng(0), np.full(outputs, 0.001, np.float32)
    if name == "int8":
        return Int8Weight(random.integers(-127, 128, (outputs, inputs), np.int8), scales)
    return Int4Weight(random.integers(0, 256, (outputs, inputs // 2), np.uint8), scales, inputs)


def random_mlp(name: str, width: int) -> MlpWeights:
    """Return a gated MLP."""
    return MlpWeights(random_weight(name, 2 * width, HIDDEN), random_weight(name, HIDDEN, width))


def random_layer(ops: CpuOps, name: str, activation: ActivationType) -> Moe:
    """Return a packed layer; its experts are the same, each with a place of its own in memory."""
    gate = np.random.default_rng(1).standard_normal((EXPERTS, HIDDEN), np.float32)
    router = RouterWeights(gate, np.zeros(EXPERTS, np.float32), CHOSEN)
    expert = random_mlp(name, WIDTH)
    return ops.pack_moe([ExpertBank(router, (expert for _ in range(EXPERTS)))], None, activation)


def step_of(rows: int) -> Batch:
    """Return a step of ``rows`` tokens of text, each of a sequence of its own."""
    places, nothing = np.arange(rows + 1, dtype=np.int32), np.zeros(rows, np.int32)
    return Batch(nothing, nothing, places, nothing, nothing[:, None], places[:-1])


def samples(calls: list[Callable[[], object]], count: int, clock: Callable[[], float]) -> list[list[float]]:
    """Return the times of each call, taken in turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(count + 1):
        for call, taken in zip(calls, times, strict=True):
            start = clock()
            call()
            taken.append(clock() - start)
    return [taken[1:] for taken in times]


def measure(
    ops: CpuOps, name: str, activation: ActivationType, rows: int, arguments: argparse.Namespace
) -> None:
    """Print one line."""
    count, clock = arguments.samples, time.process_time if arguments.cpu_time else time.perf_counter
    random = np.random.default_rng(1)
    layer = random_layer(ops, name, activation)
    dense = random_mlp(name, CHOSEN * WIDTH)
    gate_up, down = (ops.pack_linear(weight, activation) for weight in (dense.gate_up, dense.down))
    inputs = [random.standard_normal((rows, HIDDEN), np.float32) for _ in range(count + 1)]
    batch = ops.upload(step_of(rows))
    turns = [iter(inputs), iter(inputs)]
    moe_times, dense_times = samples(
        [lambda: ops.moe(next(turns[0]), layer, batch), lambda: ops.mlp(next(turns[1]), gate_up, down)],
        count,
        clock,
    )
    line = f"{name:6}{activation.value:8}{rows:4} rows"
    for label, times in (("experts", moe_times), ("dense", dense_times)):
        median, best = statistics.median(times) * 1e3, min(times) * 1e3
        line += f"   {label} {median:7.2f} ms (best {best:.2f})"
        if rows == 1:
            size = CHOSEN * 3 * WIDTH * HIDDEN * (1 if name == "int8" else 0.5)
            line += f" {size / median / 1e6:5.1f} GB/s"
    print(line, flush=True)


def main() -> None:
    """Measure every format and number of rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--instruction-set", help="default: the best of this processor")
    parser.add_argument("--formats", nargs="+", choices=["int8", "int4"], default=["int8", "int4"])
    parser.add_argument("--activations", nargs="+", default=["int16"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 128])
    parser.add_argument("--samples", type=int, default=30)
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    ops = CpuOps(arguments.threads, arguments.instruction_set)
    print(f"{ops.instruction_set}, {arguments.threads} threads")
    for name in arguments.formats:
        for activation in arguments.activations:
            for rows in arguments.rows:
                measure(ops, name, ActivationType(activation), rows, arguments)


if __name__ == "__main__":
    main()
