"""Speed of the engine without Triton and HTTP; ``make bench`` compares it with others.

    .venv/bin/python benchmarks/engine_speed.py --batches 1 16 --prompts 512

The model has the shape of ERNIE-4.5-0.3B (``--shape``) and random weights. The stages of the start come first,
with the memory that they took. What is measured, all of it with the scheduler, the sampler (greedy) and every
layer:
    decode B    tokens a second of B sequences that each have a prompt of 32 tokens; ``--tokens`` steps.
    prefill P   prompt tokens a second of one prompt of P random tokens, to its first token.
    overhead B  the share of a decode step that passes outside the kernels (``--overheads``).
"""

from __future__ import annotations

import argparse
import functools
import inspect
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine_shape import start_shape, submit_random, time_decode
from ernie_backend.devices.host import usable_cores
from ernie_kernels.cpu import CpuOps
from model_shapes import SHAPES

DECODE_PROMPT = 32


class EngineUnderTest:
    """An engine in this process, and the cases that it runs.

    Args:
        shape: a name in ``SHAPES``.
        settings: further settings of the engine.
        clock: measures seconds.
    """

    def __init__(
        self, shape: str, settings: dict[str, str], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = clock
        fixed = {"max_num_seqs": "64", "max_model_len": "4096", "num_gpu_blocks_override": "256"}
        self.started = start_shape(shape, **fixed, **settings)
        self._count = 0

    def print_start(self) -> None:
        """Print what each stage of the start took."""
        for stage in self.started.ready.description.startup:
            memory = "" if stage.size_bytes is None else f"  {stage.size_bytes / 1e9:7.2f} GB"
            print(f"start: {stage.name:40} {stage.seconds:7.2f} s{memory}", flush=True)

    def _submit(self, tokens: int, max_tokens: int) -> str:
        self._count += 1
        submit_random(self.started, f"r{self._count}", tokens, max_tokens)
        return f"r{self._count}"

    def decode(self, batch: int, steps: int) -> float:
        """Return output tokens a second of ``batch`` sequences."""
        ids = [self._submit(DECODE_PROMPT, 4 * steps) for _ in range(batch)]
        return batch * steps / time_decode(self.started.engine, ids, steps, self._clock)

    def prefill(self, tokens: int, _steps: int) -> float:
        """Return prompt tokens a second of one prompt."""
        engine = self.started.engine
        self._submit(tokens, 1)
        start = self._clock()
        while engine.has_work:
            engine.step()
        return tokens / (self._clock() - start)

    def overhead(self, batch: int, steps: int) -> float:
        """Return the share of decode steps that passes outside the kernels' calls."""
        engine = self.started.engine
        ids = [self._submit(DECODE_PROMPT, 4 * steps) for _ in range(batch)]
        while engine.heartbeat.waiting:
            engine.step()
        with kernel_time(self._clock) as spent:
            start = self._clock()
            for _ in range(steps):
                engine.step()
            taken = self._clock() - start
        for request_id in ids:
            engine.cancel(request_id)
        return 1 - spent[0] / taken


@contextmanager
def kernel_time(clock: Callable[[], float]) -> Iterator[list[float]]:
    """Add up the time within the ops of ``CpuOps``, each of which is a call of a kernel and little else."""
    spent, depth = [0.0], [0]

    def timed(op: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(op)
        def run(*values: object, **options: object) -> object:
            depth[0] += 1
            start = clock()
            try:
                return op(*values, **options)
            finally:
                depth[0] -= 1
                if depth[0] == 0:
                    spent[0] += clock() - start

        return run

    originals = {
        name: op for name, op in vars(CpuOps).items() if inspect.isfunction(op) and not name.startswith("_")
    }
    for name, op in originals.items():
        setattr(CpuOps, name, timed(op))
    try:
        yield spent
    finally:
        for name, op in originals.items():
            setattr(CpuOps, name, op)


def main() -> None:
    """Measure the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.3b")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--quantization", default="wint8", help="empty: bfloat16 weights")
    parser.add_argument("--activation-dtype", default="", help="default: the engine's")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 16])
    parser.add_argument("--prompts", nargs="*", type=int, default=[512])
    parser.add_argument("--overheads", nargs="*", type=int, default=[])
    parser.add_argument("--tokens", type=int, default=32, help="steps of a decode sample")
    parser.add_argument("--cpu-time", action="store_true", help="processor time of all threads")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    print(
        f"ERNIE-4.5-{arguments.shape.upper()}'s shape, {arguments.quantization or 'bfloat16'},"
        f" {arguments.threads} threads; load of the machine {os.getloadavg()[0]:.1f};"
        f" medians of {arguments.rounds} rounds",
        flush=True,
    )
    settings = {"quantization": arguments.quantization, "activation_dtype": arguments.activation_dtype}
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    engine = EngineUnderTest(arguments.shape, {**settings, "threads": str(arguments.threads)}, clock)
    engine.print_start()
    sizes = {"decode": arguments.batches, "prefill": arguments.prompts, "overhead": arguments.overheads}
    for kind, size in ((kind, size) for kind, chosen in sizes.items() for size in chosen):
        run = getattr(engine, kind)
        run(size, arguments.tokens)
        samples = [run(size, arguments.tokens) for _ in range(arguments.rounds)]
        median = statistics.median(samples)
        if kind == "overhead":
            print(f"{kind} {size:<5} {median:8.1%} ({min(samples):.1%} to {max(samples):.1%})", flush=True)
        else:
            print(f"{kind} {size:<5} {median:8.1f} tok/s (best {max(samples):.1f})", flush=True)


if __name__ == "__main__":
    main()
