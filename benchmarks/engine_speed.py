"""Speed of the engine without Triton and HTTP, beside llama.cpp's on the same machine if it is there.

    .venv/bin/python benchmarks/engine_speed.py                                     make bench
    .venv/bin/python benchmarks/engine_speed.py --llama W                           make bench LLAMA=W

The model has the shape of ERNIE-4.5-0.3B (``--shape``) and random weights. The stages of the start come first,
with the memory that they took. What is measured, all of it with the scheduler,
the sampler (greedy) and every layer:
    decode B    tokens a second of B sequences that each have a prompt of 32 tokens; ``--tokens`` steps.
    prefill P   prompt tokens a second of one prompt of P random tokens, to its first token.
llama.cpp runs the same cases (llama-bench -p P -n 0, llama-batched-bench -npp 32 -npl B). The two take turns
within a round, case by case, so that both meet the same noise; the ratio is of each round, and the median of
the rounds is printed. ``benchmarks/peers.sh W`` builds llama.cpp and the model file in the directory W.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import time
from pathlib import Path

from engine_shape import SHAPES, start_shape, submit_random, time_decode

from ernie_backend.devices.host import usable_cores

DECODE_PROMPT = 32


class EngineUnderTest:
    """An engine in this process, and the cases that it runs."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._steps = arguments.tokens
        self._clock = time.process_time if arguments.cpu_time else time.perf_counter
        self._started = start_shape(
            arguments.shape,
            quantization=arguments.quantization,
            activation_dtype=arguments.activation_dtype,
            threads=str(arguments.threads),
            max_num_seqs="64",
            max_model_len="4096",
            num_gpu_blocks_override="256",
        )
        self._count = 0

    def print_start(self) -> None:
        """Print what each stage of the start took."""
        for stage in self._started.ready.description.startup:
            memory = "" if stage.size_bytes is None else f"  {stage.size_bytes / 1e9:7.2f} GB"
            print(f"start: {stage.name:40} {stage.seconds:7.2f} s{memory}", flush=True)

    def _submit(self, tokens: int, max_tokens: int) -> str:
        self._count += 1
        submit_random(self._started, f"r{self._count}", tokens, max_tokens)
        return f"r{self._count}"

    def decode(self, batch: int) -> float:
        """Return output tokens a second of ``batch`` sequences."""
        ids = [self._submit(DECODE_PROMPT, 4 * self._steps) for _ in range(batch)]
        taken = time_decode(self._started.engine, ids, self._steps, self._clock)
        return float(batch * self._steps / taken)

    def prefill(self, tokens: int) -> float:
        """Return prompt tokens a second of one prompt."""
        engine = self._started.engine
        self._submit(tokens, 1)
        start = self._clock()
        while engine.has_work:
            engine.step()
        taken = self._clock() - start
        return tokens / taken


class Llama:
    """llama.cpp's own benchmarks."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._bin, model = arguments.llama / "build" / "bin", arguments.llama / "dense-q8_0.gguf"
        missing = [
            path
            for path in (self._bin / "llama-bench", self._bin / "llama-batched-bench", model)
            if not path.exists()
        ]
        if missing:
            raise SystemExit(f"{missing[0]} does not exist; benchmarks/peers.sh {arguments.llama} makes it")
        self._common = ["-m", str(model), "-t", str(arguments.threads)]
        self._threads, self._tokens = str(arguments.threads), str(arguments.tokens)

    def _last_object(self, *command: str) -> dict[str, float]:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        found: dict[str, float] = json.loads(lines[-1])
        return found

    def decode(self, batch: int) -> float:
        """Return output tokens a second of ``batch`` sequences."""
        context = str(batch * (DECODE_PROMPT + int(self._tokens)) + 256)
        sizes = ["-c", context, "-b", "2048", "-ub", "512", "-npp", str(DECODE_PROMPT), "-ntg", self._tokens]
        command = [str(self._bin / "llama-batched-bench"), *self._common, "-tb", self._threads, *sizes]
        return self._last_object(*command, "-npl", str(batch), "--output-format", "jsonl")["speed_tg"]

    def prefill(self, tokens: int) -> float:
        """Return prompt tokens a second of one prompt."""
        command = [str(self._bin / "llama-bench"), *self._common, "-p", str(tokens), "-n", "0", "-r", "1"]
        return self._last_object(*command, "-o", "jsonl")["avg_ts"]


def report(case: str, ours: list[float], theirs: list[float]) -> None:
    """Print the medians of a case so far."""
    line = f"{case:13} {statistics.median(ours):8.1f} tok/s (best {max(ours):.1f})"
    if theirs:
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        line += f"   llama.cpp {statistics.median(theirs):8.1f} (best {max(theirs):.1f})"
        line += f"   ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(line, flush=True)


def main() -> None:
    """Measure the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.3b")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--quantization", default="wint8")
    parser.add_argument("--activation-dtype", default="", help="default: the engine's")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 16])
    parser.add_argument("--prompts", nargs="*", type=int, default=[512])
    parser.add_argument("--tokens", type=int, default=32, help="steps of a decode sample")
    parser.add_argument("--cpu-time", action="store_true", help="of our engine: processor time of all threads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--llama", type=Path, help="the directory that benchmarks/peers.sh has filled")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    llama = Llama(arguments) if arguments.llama else None
    print(
        f"ERNIE-4.5-{arguments.shape.upper()}'s shape, {arguments.quantization}, {arguments.threads} threads;"
        f" load of the machine {os.getloadavg()[0]:.1f}; medians of {arguments.rounds} rounds",
        flush=True,
    )
    engine = EngineUnderTest(arguments)
    engine.print_start()
    cases = [("decode", batch) for batch in arguments.batches]
    cases += [("prefill", tokens) for tokens in arguments.prompts]
    for kind, size in cases:
        getattr(engine, kind)(size)
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            ours.append(getattr(engine, kind)(size))
            if llama is not None:
                theirs.append(getattr(llama, kind)(size))
        report(f"{kind} {size}", ours, theirs)


if __name__ == "__main__":
    main()
