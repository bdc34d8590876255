"""Speed of the C++ kernels alone, beside the limits of the machine in the same minutes.

    .venv/bin/python benchmarks/kernels.py --kernels linear attention --formats int8 int4

What is measured, of the shapes of the 0.3B model and, for experts, of a layer of the 21B model:
    linear      matrix products of every format of weights and activations
    experts     a layer of 64 experts of which each row chooses 6, in int8 and in int4
    attention   decode (16 sequences, a context of 1,024) and prefill (512 tokens) with the append to the cache
    head        the output head in int8 with the choice of tokens behind it (greedy)
A line has the GB/s of weights or cache that are read, and the GOP/s (a multiply or an add is an operation), as
medians with the best beside them. ``of the limit`` is the time that memory (``read``) or the instruction that
multiplies (``peak``) needs at least, whichever is longer, over the time taken; both are measured by
``comparison/probe.cpp`` just before. Several copies of a matrix take turns: one row reads it from memory
and not from a cache. ``--cpu-time`` counts the processor time of all threads: with one thread, the speed of an
undisturbed core even where others want it too; the limits are by the clock on the wall.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from comparison.limits import instruction
from comparison.machine import MEMORY_MIB, Probe
from ernie_kernels.api import Batch, CacheSpec, RotarySpec
from ernie_kernels.cpu import CpuOps
from ernie_kernels.formats import (
    ActivationType,
    Bfloat16Weight,
    Float32Weight,
    Int4Weight,
    Int8Weight,
    LinearWeight,
)
from ernie_kernels.sampling import GREEDY, TokenChoices, sampling_batch
from experts import CHOSEN, EXPERTS, HIDDEN, WIDTH, random_layer, step_of

SHAPES = {"lm_head": (103424, 1024), "gate_up": (6144, 1024), "down": (1024, 3072)}
QUANTIZED = ("int16", "int8")
FORMATS = {
    "float32": ("float32",),
    "bfloat16": ("float32", "bfloat16"),
    "int8": QUANTIZED,
    "int4": QUANTIZED,
}
"""The formats of weights, each with its activation types."""
BITS = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4}
COLD_BYTES = 128 << 20
HEADS, KV_HEADS, HEAD_DIM, BLOCK = 16, 2, 128, 64


@dataclass(frozen=True)
class Case:
    """A call of kernels, and its work.

    Attributes:
        label: what is printed.
        call: runs it ``repeats`` times.
        repeats: calls of the kernel in a ``call``.
        size_bytes: read from memory by one.
        operations: of one.
        activation: decides which instruction multiplies.
    """

    label: str
    call: Callable[[], None]
    repeats: int
    size_bytes: float
    operations: float
    activation: str


def in_turn(op: Callable[[Any], object], values: Sequence[Any]) -> Callable[[], None]:
    """Return what calls ``op`` with each value."""

    def call() -> None:
        for value in values:
            op(value)

    return call


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


def linear_cases(arguments: argparse.Namespace, ops: CpuOps) -> Iterator[Case]:
    """Yield matrix products."""
    for name in arguments.formats:
        for activation in arguments.activations or FORMATS[name]:
            for shape in arguments.shapes:
                outputs, inputs = SHAPES[shape]
                size_bytes = outputs * inputs * BITS[name] / 8
                weight = random_weight(name, outputs, inputs)
                kind = ActivationType(activation)
                copies = [ops.pack_linear(weight, kind) for _ in range(int(COLD_BYTES / size_bytes) + 1)]
                for rows in arguments.rows:
                    x = np.random.default_rng(1).standard_normal((rows, inputs), np.float32)
                    label = f"{name} x {activation}, {shape}, {rows} rows"
                    operations = 2 * rows * inputs * outputs
                    call = in_turn(partial(ops.linear, x), copies)
                    yield Case(label, call, len(copies), size_bytes, operations, activation)


def expert_cases(arguments: argparse.Namespace, ops: CpuOps) -> Iterator[Case]:
    """Yield a layer of experts."""
    for name in ("int8", "int4"):
        for activation in arguments.activations or QUANTIZED:
            layer = random_layer(ops, name, ActivationType(activation))
            for rows in arguments.rows:
                batch = ops.upload(step_of(rows))
                inputs = np.random.default_rng(1).standard_normal((16, rows, HIDDEN), np.float32)
                weights = 3 * WIDTH * HIDDEN
                touched = EXPERTS * (1 - (1 - CHOSEN / EXPERTS) ** rows)
                label = f"experts {name} x {activation}, {rows} rows"
                size_bytes = touched * weights * BITS[name] / 8
                call = in_turn(partial(ops.moe, layer=layer, batch=batch), list(inputs))
                yield Case(label, call, len(inputs), size_bytes, 2 * rows * CHOSEN * weights, activation)


def _attention(ops: CpuOps, sequences: int, tokens: int, context: int) -> Callable[[], None]:
    """Return a step in which ``sequences`` of ``context`` tokens each get ``tokens`` more."""
    blocks = -(-(context + tokens) // BLOCK)
    cache = ops.allocate_cache(CacheSpec(sequences * blocks, BLOCK, KV_HEADS, HEAD_DIM, "bfloat16"))
    rotary = ops.pack_rotary(RotarySpec(HEAD_DIM, context + tokens, 500000.0))
    tables = np.arange(sequences * blocks, dtype=np.int32).reshape(sequences, blocks)
    width = (HEADS + 2 * KV_HEADS) * HEAD_DIM

    def step(begin: int, count: int) -> Callable[[], None]:
        rows = sequences * count
        positions = np.tile(np.arange(begin, begin + count, dtype=np.int32), sequences)
        starts = np.arange(0, rows + 1, count, dtype=np.int32)
        lengths, ids = np.full(sequences, begin, np.int32), np.zeros(rows, np.int32)
        batch = ops.upload(Batch(ids, positions, starts, lengths, tables, starts[1:] - 1))
        qkv = np.random.default_rng(1).standard_normal((rows, width), np.float32)
        return in_turn(partial(ops.attention, qkv, rotary, cache), [batch])

    if context:
        step(0, context)()
    return step(context, tokens)


def attention_cases(_arguments: argparse.Namespace, ops: CpuOps) -> Iterator[Case]:
    """Yield attention with its append to the cache."""
    for label, sequences, tokens, context in (
        ("attention, decode of 16 x 1,024 tokens", 16, 1, 1024),
        ("attention, prefill of 512 tokens", 1, 512, 0),
        ("attention, prefill of 2,048 tokens", 1, 2048, 0),
    ):
        seen = sequences * tokens * (context + (tokens + 1) / 2)
        size_bytes = 4.0 * sequences * (context + tokens) * KV_HEADS * HEAD_DIM
        call = _attention(ops, sequences, tokens, context)
        yield Case(label, call, 1, size_bytes, 4 * seen * HEADS * HEAD_DIM, "bfloat16")


def head_cases(arguments: argparse.Namespace, ops: CpuOps) -> Iterator[Case]:
    """Yield the output head with the greedy choice behind it."""
    outputs, inputs = SHAPES["lm_head"]
    for activation in arguments.activations or QUANTIZED:
        head = ops.pack_linear(random_weight("int8", outputs, inputs), ActivationType(activation))
        for rows in (1, 16, 64):
            places = np.arange(rows, dtype=np.int32)
            choices = TokenChoices(places, sampling_batch([(GREEDY, 0.0)] * rows), outputs)
            batch = ops.upload(replace(step_of(rows), logit_rows=places, choices=choices))
            hidden = np.random.default_rng(1).standard_normal((rows, inputs), np.float32)
            label = f"head int8 x {activation} and greedy choice, {rows} rows"
            call = in_turn(partial(ops.lm_head, hidden, head), [batch])
            yield Case(label, call, 1, outputs * inputs, 2 * rows * outputs * inputs, activation)


KERNELS = {"linear": linear_cases, "experts": expert_cases, "attention": attention_cases, "head": head_cases}


def samples(case: Case, arguments: argparse.Namespace) -> list[float]:
    """Return the times of one kernel, each the mean over about ``arguments.seconds``."""
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    case.call()
    start = clock()
    case.call()
    calls = max(1, int(arguments.seconds / max(1e-6, clock() - start)))
    times = []
    for _ in range(arguments.samples):
        start = clock()
        for _ in range(calls):
            case.call()
        times.append((clock() - start) / calls / case.repeats)
    return times


def line_of(case: Case, times: list[float], bandwidth: float, peak: float) -> str:
    """Return what is printed of a case; ``bandwidth`` in GB/s, ``peak`` in GOP/s."""
    median, best = statistics.median(times), min(times)
    memory_s, arithmetic_s = case.size_bytes / bandwidth / 1e9, case.operations / peak / 1e9
    limit = "read" if memory_s > arithmetic_s else "peak"
    share = max(memory_s, arithmetic_s) / median
    read = f"{case.size_bytes / median / 1e9:6.1f} GB/s (best {case.size_bytes / best / 1e9:.1f})"
    computed = f"{case.operations / median / 1e9:7.0f} GOP/s (best {case.operations / best / 1e9:.0f})"
    return f"{case.label:46} {read}  {computed}  {share:4.0%} of the limit ({limit})"


def main() -> None:
    """Measure the kernels asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--instruction-set", help="default: the best of this processor")
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["bfloat16", "int8", "int4"])
    parser.add_argument("--activations", nargs="+", help="default: those that fit a format")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["gate_up", "down"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16, 128])
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--samples", type=int, default=7)
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    ops = CpuOps(arguments.threads, arguments.instruction_set)
    with tempfile.TemporaryDirectory() as directory:
        probe = Probe(Path(directory))
        peaks = probe.peaks(arguments.threads)
        print(f"{ops.instruction_set}, {arguments.threads} threads; peaks, GOP/s:")
        print("  " + ", ".join(f"{name} {value:.0f}" for name, value in peaks.items()), flush=True)
        for name in arguments.kernels:
            bandwidth = probe.read(MEMORY_MIB, arguments.threads)
            print(f"read: {bandwidth:.1f} GB/s")
            for case in KERNELS[name](arguments, ops):
                multiplies = instruction(
                    {"instruction_set": ops.instruction_set, "activation_dtype": case.activation}
                )
                print(line_of(case, samples(case, arguments), bandwidth, peaks[multiplies]), flush=True)
        probe.close()


if __name__ == "__main__":
    main()
