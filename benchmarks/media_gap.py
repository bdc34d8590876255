"""The longest gap of text streams beside requests with images, and how long those wait for their first token.

    .venv/bin/python benchmarks/media_gap.py --cpu-time

The engine alone, without Triton and HTTP: PaddleOCR-VL at its full size with random weights. ``--streams``
answers are under way when ``--images`` requests arrive, each with an image of ``--side`` patches a side that no
other has. Measured in seconds by the clock on the wall or, with ``--cpu-time``, of processor time of all
threads, which other work on the machine hardly moves:
    alone     the longest time between two tokens of the streams before the images arrive
    gap       the same until every image request has its first token
    piece     the longest piece of the encoder's work
    step      the longest step of the model in that time
    first     from the arrival of the images to the first token of the first and of the last of them
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine_shape import submit_random
from ernie_backend.devices.host import usable_cores
from ernie_backend.engine.engine import Engine
from ernie_backend.request.media import MediaItem
from ernie_backend.runner.encoder import Encoder
from ernie_backend.runner.model_runner import ModelRunner
from ernie_backend.service.start import StartedEngine, start_engine
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters
from pages import write_model

_PATCH_VALUES = 3 * 14 * 14
_STEPS_BEFORE = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=32, help="patches; 32: 256 tokens")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--cpu-time", action="store_true", help="processor time of all threads")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    started = _start(arguments)
    pieces, steps = _timed(Encoder, "advance", clock), _timed(ModelRunner, "run", clock)
    for number in range(arguments.streams):
        submit_random(started, f"stream {number}", 32, 4000)
    while started.engine.heartbeat.waiting:
        started.engine.step()
    alone = max(_step_times(started.engine, clock, _STEPS_BEFORE))
    steps.clear()
    begin = clock()
    waiting = {_submit_image(started, number, arguments.side) for number in range(arguments.images)}
    gap, last, first = 0.0, clock(), list[float]()
    while waiting:
        outputs = started.engine.step()
        now = clock()
        gap, last = max(gap, now - last), now  # every step computes a token of every stream
        ready = {output.request_id for output in outputs} & waiting
        waiting -= ready
        first += [now - begin] * len(ready)
    print(
        f"load of the machine {os.getloadavg()[0]:.1f}; {arguments.streams} streams, {arguments.images} images"
    )
    print(
        f"alone {alone:.3f} s   gap {gap:.3f} s   piece {max(pieces):.3f} s   step {max(steps):.3f} s   "
        f"first {first[0]:.1f} s to {first[-1]:.1f} s"
    )


def _start(arguments: argparse.Namespace) -> StartedEngine:
    with tempfile.TemporaryDirectory() as directory:
        return start_engine(
            {
                "model": str(write_model(Path(directory) / "model")),
                "device": "cpu",
                "load_choices": "dummy",
                "weight_cache": "off",
                "threads": str(arguments.threads),
                "max_model_len": "8192",
                "max_num_seqs": str(arguments.streams + arguments.images),
            }
        )


def _submit_image(started: StartedEngine, number: int, side: int) -> str:
    patches = np.random.default_rng(number).integers(0, 256, (side * side, _PATCH_VALUES), np.uint8)
    digest = hashlib.blake2b(patches.tobytes(), digest_size=32).digest()
    item = MediaItem("image", patches, (1, side, side), side * side // 4, digest)
    parts = [{"type": "image_url", "image_url": {"media": 0}}, {"type": "text", "text": "OCR:"}]
    request = GenerateRequest(
        request_id=f"image {number}",
        messages=json.dumps({"messages": [{"role": "user", "content": parts}]}).encode(),
        media=(b"prepared",),
        stream=True,
        sampling=SamplingParameters(max_tokens=2, temperature=0.0, ignore_eos=True),
    )
    started.engine.submit(started.input_processor.process(request, (item,)))
    return request.request_id


def _step_times(engine: Engine, clock: Callable[[], float], count: int) -> list[float]:
    times = []
    for _ in range(count):
        begin = clock()
        engine.step()
        times.append(clock() - begin)
    return times


def _timed(cls: type, name: str, clock: Callable[[], float]) -> list[float]:
    """Have a method's calls timed; return the list that their times go to."""
    times: list[float] = []
    method = getattr(cls, name)

    def timed(self: object, *arguments: object) -> object:
        begin = clock()
        result: object = method(self, *arguments)
        times.append(clock() - begin)
        return result

    setattr(cls, name, timed)
    return times


if __name__ == "__main__":
    main()
