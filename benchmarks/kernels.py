"""Speed of the C++ matrix products alone: GB/s of weights at one row, GOP/s at many.

    .venv/bin/python benchmarks/kernels.py --threads 2 --formats int8 int4

Weights are random, of a shape of the 0.3B model; several copies take turns, so that one row always reads them
from memory and not from a cache. An operation is a multiply or an add. Every figure is the median of samples of
about ``--seconds``, with the best beside it: on a shared machine the two tell how quiet it was. ``--cpu-time``
counts the processor time of all threads instead of the clock on the wall: with one thread, the speed of an
undisturbed core even where others want it too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Linear
from ernie_kernels.cpu import CpuOps
from ernie_kernels.formats import (
    ActivationType,
    Bfloat16Weight,
    Float32Weight,
    Int4Weight,
    Int8Weight,
    LinearWeight,
)

SHAPES = {"lm_head": (103424, 1024), "gate_up": (6144, 1024), "down": (1024, 3072)}
FORMATS = {"float32": ("float32",), "bfloat16": ("float32", "bfloat16"), "int8": ("int16",), "int4": ("int16",)}
"""The formats of weights, each with the activation types that are measured unless others are asked for."""
COLD_BYTES = 128 << 20


def random_weight(name: str, outputs: int, inputs: int) -> LinearWeight:
    """Return a weight ``[outputs, inputs]`` of format ``name``."""
    random = np.random.default_rng(0)
    scales = np.full(outputs, 0.01, np.float32)
    if name == "float32":
        return Float32Weight(random.standard_normal((outputs, inputs), np.float32))
    if name == "bfloat16":
        return Bfloat16Weight(random.integers(0x3C00, 0x3F80, (outputs, inputs), np.uint16))
    if name == "int8":
        return Int8Weight(random.integers(-127, 128, (outputs, inputs), np.int8), scales)
    return Int4Weight(random.integers(0, 256, (outputs, (inputs + 1) // 2), np.uint8), scales, inputs)


def bits_per_weight(name: str) -> int:
    """Return the bits of one weight of format ``name``."""
    return {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4}[name]


def samples(call: Callable[[], None], arguments: argparse.Namespace) -> list[float]:
    """Return the times of one call, each the mean over about ``arguments.seconds``."""
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    start = clock()
    call()
    repeats = max(1, int(arguments.seconds / (clock() - start)))
    times = []
    for _ in range(arguments.samples):
        start = clock()
        for _ in range(repeats):
            call()
        times.append((clock() - start) / repeats)
    return times


def measure(arguments: argparse.Namespace, ops: CpuOps, name: str, activation: ActivationType) -> None:
    """Print one line per shape."""
    for shape in arguments.shapes:
        outputs, inputs = SHAPES[shape]
        weight_bytes = outputs * inputs * bits_per_weight(name) / 8
        weight = random_weight(name, outputs, inputs)
        copies = [ops.pack_linear(weight, activation) for _ in range(int(COLD_BYTES / weight_bytes) + 1)]
        line = f"{name:9}{activation.value:9} {shape:8}"
        for rows in arguments.rows:
            x = np.random.default_rng(1).standard_normal((rows, inputs)).astype(np.float32)

            def multiply(x: NDArray[np.float32] = x, copies: Sequence[Linear] = copies) -> None:
                for packed in copies:
                    ops.linear(x, packed)

            times = [taken / len(copies) for taken in samples(multiply, arguments)]
            median, best = statistics.median(times), min(times)
            if rows == 1:
                line += f"  {weight_bytes / median / 1e9:6.1f} GB/s (best {weight_bytes / best / 1e9:.1f})"
            else:
                work = 2 * rows * inputs * outputs / 1e9
                line += f"  {rows} rows {work / median:5.0f} GOP/s (best {work / best:.0f})"
        print(line, flush=True)


def main() -> None:
    """Measure every format asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--instruction-set", help="default: the best of this processor")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["bfloat16", "int8", "int4"])
    parser.add_argument("--activations", nargs="+", help="default: float32 and bfloat16, int16 if quantized")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["gate_up", "down"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16, 128])
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--samples", type=int, default=7)
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    ops = CpuOps(arguments.threads, arguments.instruction_set)
    print(f"{ops.instruction_set}, {arguments.threads} threads")
    for name in arguments.formats:
        for activation in arguments.activations or FORMATS[name]:
            measure(arguments, ops, name, ActivationType(activation))


if __name__ == "__main__":
    main()
