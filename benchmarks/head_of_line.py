"""How long a short request waits behind a long prompt, and what streams under way and the long prompt pay.

    .venv/bin/python benchmarks/head_of_line.py

The engine alone, without Triton and HTTP, with the shape of ERNIE-4.5-0.3B and random weights. ``--streams``
answers are under way when a prompt of ``--long`` tokens arrives; after its first step a prompt of ``--short``
tokens arrives. Measured in seconds by the clock on the wall or, with ``--cpu-time``, of processor time of all
threads, which other work on the machine hardly moves:
    short     from the arrival of the short prompt to its first token
    long      from the arrival of the long prompt to its first token
    gap       the longest time between two tokens of the streams meanwhile
For each number of ``--partial-prefills`` an engine of its own; they take turns within a round, and the medians
of the rounds are printed.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time

from engine_shape import start_shape, submit_random
from ernie_backend.devices.host import usable_cores
from ernie_backend.service.start import StartedEngine
from model_shapes import SHAPES


class Line:
    """An engine and the requests that stand in its line."""

    def __init__(self, arguments: argparse.Namespace, partial_prefills: int) -> None:
        self._sizes = arguments.long, arguments.short, arguments.streams
        self._clock = time.process_time if arguments.cpu_time else time.perf_counter
        self._count = 0
        self._started: StartedEngine = start_shape(
            arguments.shape,
            quantization=arguments.quantization,
            threads=str(arguments.threads),
            max_num_seqs="16",
            max_model_len=str(arguments.long + 64),
            num_gpu_blocks_override=str((arguments.long + 8192) // 64),
            enable_prefix_caching="false",
            max_num_partial_prefills=str(partial_prefills),
        )

    def _submit(self, name: str, prompt_tokens: int, max_tokens: int) -> str:
        request_id = f"{name} {self._count}"
        submit_random(self._started, request_id, prompt_tokens, max_tokens)
        return request_id

    def measure(self) -> tuple[float, float, float]:
        """Return the seconds of short, long and gap."""
        engine, (long_tokens, short_tokens, num_streams) = self._started.engine, self._sizes
        self._count += 1
        streams = [self._submit(f"stream{each}", 32, 2000) for each in range(num_streams)]
        while engine.heartbeat.waiting:
            engine.step()
        arrived = {self._submit("long", long_tokens, 1): self._clock()}
        engine.step()
        arrived[self._submit("short", short_tokens, 1)] = self._clock()
        first: dict[str, float] = {}
        gap, last = 0.0, self._clock()
        while len(first) < len(arrived):
            outputs = engine.step()
            now = self._clock()
            gap, last = max(gap, now - last), now
            first.update({each.request_id: now for each in outputs if each.request_id in arrived})
        for request_id in streams:
            engine.cancel(request_id)
        long, short = (first[name] - since for name, since in arrived.items())
        return short, long, gap


def main() -> None:
    """Measure and print one row for each number of partial prefills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.3b")
    parser.add_argument("--quantization", default="wint8")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--long", type=int, default=12000)
    parser.add_argument("--short", type=int, default=64)
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--partial-prefills", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--cpu-time", action="store_true", help="processor time of all threads")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    lines = {number: Line(arguments, number) for number in arguments.partial_prefills}
    taken: dict[int, list[tuple[float, float, float]]] = {number: [] for number in lines}
    for _ in range(arguments.rounds):
        for number, line in lines.items():
            taken[number].append(line.measure())
    print(f"load of the machine {os.getloadavg()[0]:.1f}; medians of {arguments.rounds} rounds, in seconds")
    for number, rounds in taken.items():
        short, long, gap = (statistics.median(each) for each in zip(*rounds, strict=True))
        print(f"{number:3} partial prefills   short {short:8.2f}   long {long:8.2f}   gap {gap:6.2f}")


if __name__ == "__main__":
    main()
