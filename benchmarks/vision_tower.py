"""Speed of PaddleOCR-VL's vision tower at its real size, beside transformers' on the same machine.

    .venv/bin/python benchmarks/vision_tower.py                                make bench VISION=1
    .venv/bin/python benchmarks/vision_tower.py --peer P/bin/python            make bench VISION=P/bin/python

Random weights in bfloat16, one square image of each number of patches. P is a virtual environment:

    python3 -m venv P && P/bin/pip install torch transformers==5.23.0

The two take turns within a round, so that both meet the same noise; the ratio is of each round. Times are those
on the wall, and with ``--cpu-time`` the processor time of all threads: on a machine that others use too, only
the latter says something. Ours includes the projector, transformers' does not. The longest piece is what a
stream of text waits for at most while an image is encoded.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ernie_backend.devices.host import usable_cores
from ernie_backend.models.vision.navit import NaViTTower
from ernie_backend.models.vision.transformer import TowerPacker
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_backend.weights.dummy import DummyWeights
from ernie_cli.presets.released import RELEASED
from ernie_kernels.cpu import CpuOps
from ernie_kernels.formats import ActivationType

PEER = """
import json, sys, time, torch
from transformers.models.paddleocr_vl import modeling_paddleocr_vl as modeling
from transformers.models.paddleocr_vl.configuration_paddleocr_vl import PaddleOCRVisionConfig

threads, clock, fields = int(sys.argv[1]), getattr(time, sys.argv[2]), json.loads(sys.argv[3])
torch.set_num_threads(threads)
config = PaddleOCRVisionConfig(**fields)
config._attn_implementation = "sdpa"
tower = modeling.PaddleOCRVisionModel(config).to(torch.bfloat16).eval()
print("ready", flush=True)
with torch.no_grad():
    for line in sys.stdin:
        side = int(line)
        pixels = torch.randn(1, side * side, 3, 14, 14).to(torch.bfloat16)
        start = clock()
        tower(pixel_values=pixels, grid_thw=torch.tensor([[1, side, side]]))
        print(clock() - start, flush=True)
"""
"""Reads sides of images, and answers with seconds."""


class TowerUnderTest:
    """The tower in this process."""

    def __init__(self, threads: int, clock: Callable[[], float]) -> None:
        config = RELEASED["PaddleOCR-VL"].shape.config
        if config.vision is None:
            raise SystemExit("PaddleOCR-VL without a tower")
        self._clock = clock
        self._ops = CpuOps(threads)
        settings = LoadSettings("bfloat16", None, ActivationType.BFLOAT16, max_model_len=64)
        weights = DummyWeights(config, settings.dtype, settings.quantization)
        self._tower = NaViTTower(config.vision, TowerPacker(weights, self._ops, settings))
        self.instruction_set = self._ops.instruction_set

    def encode(self, side: int) -> tuple[float, float]:
        """Return the seconds of an image of ``side`` x ``side`` patches, and those of the longest piece."""
        values = np.random.default_rng(side).standard_normal((side * side, 3 * 14 * 14), np.float32)
        start = last = self._clock()
        longest = 0.0
        for _ in self._tower.encode(self._ops.upload_rows(values), (1, side, side)):
            now = self._clock()
            longest, last = max(longest, now - last), now
        return self._clock() - start, longest


class Peer:
    """transformers' tower in a process of its own."""

    def __init__(self, python: Path, threads: int, clock: str) -> None:
        tower = RELEASED["PaddleOCR-VL"].fields["vision_config"]
        command = [str(python), "-c", PEER, str(threads), clock, json.dumps(tower)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._answer()

    def encode(self, side: int) -> float:
        """Return the seconds of an image of ``side`` x ``side`` patches."""
        if self._process.stdin is None:
            raise SystemExit("the peer has no input")
        self._process.stdin.write(f"{side}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit(f"transformers' tower failed; {self._process.args!r} says why")
        return line.strip()


def report(patches: int, ours: list[tuple[float, float]], theirs: list[float]) -> None:
    """Print the medians of an image size."""
    times = [taken for taken, _ in ours]
    line = f"{patches:6} patches {statistics.median(times):7.2f} s (best {min(times):.2f})"
    line += f"   longest piece {1000 * statistics.median(longest for _, longest in ours):.0f} ms"
    if theirs:
        ratios = [theirs / ours for theirs, ours in zip(theirs, times, strict=True)]
        line += f"   transformers {statistics.median(theirs):7.2f} s (best {min(theirs):.2f})"
        line += f"   ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(line, flush=True)


def main() -> None:
    """Measure every number of patches asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--patches", nargs="+", type=int, default=[1024, 4096], help="squares of even numbers")
    parser.add_argument("--cpu-time", action="store_true", help="processor time of all threads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", type=Path, help="a Python that has torch and transformers")
    arguments = parser.parse_args()
    clock = "process_time" if arguments.cpu_time else "perf_counter"
    tower = TowerUnderTest(arguments.threads, getattr(time, clock))
    peer = Peer(arguments.peer, arguments.threads, clock) if arguments.peer else None
    print(
        f"PaddleOCR-VL's vision tower, bfloat16, {tower.instruction_set}, {arguments.threads} threads; load of"
        f" the machine {os.getloadavg()[0]:.1f}; medians of {arguments.rounds} rounds of"
        f" {'processor time' if arguments.cpu_time else 'time'}",
        flush=True,
    )
    for patches in arguments.patches:
        side = math.isqrt(patches)
        tower.encode(side)
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            ours.append(tower.encode(side))
            if peer is not None:
                theirs.append(peer.encode(side))
        report(side * side, ours, theirs)
    if peer is not None:
        peer.close()


if __name__ == "__main__":
    main()
