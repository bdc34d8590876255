"""Our engine in this process, with random weights: the cases of the comparison.

    PYTHONPATH=benchmarks python benchmarks/peers/ours.py SHAPE THREADS QUANTIZATION [ACTIVATION]

QUANTIZATION empty: bfloat16 weights. Everything else is the engine's default, activations too unless given.
"""

from __future__ import annotations

import logging
import sys
import time

from case_loop import CaseLoop

from engine_speed import EngineUnderTest
from ernie_kernels.cpu import CpuOps


def main() -> None:
    """Start the engine and answer cases."""
    loop, start = CaseLoop(), time.perf_counter()
    logging.disable(logging.INFO)
    shape, threads, quantization, *activation = sys.argv[1:]
    settings = {"threads": threads, "quantization": quantization, "activation_dtype": "".join(activation)}
    engine = EngineUnderTest(shape, settings)
    description = engine.started.ready.description
    sizes = [stage.size_bytes for stage in description.startup if stage.size_bytes is not None]
    facts = {
        "version": "ernie-triton",
        "start_s": time.perf_counter() - start,
        "instruction_set": CpuOps(1).instruction_set,
        "activation_dtype": description.activation_dtype,
        "weight_bytes": sizes[0],
    }
    loop.run(facts, {"decode": engine.decode, "prefill": engine.prefill, "overhead": engine.overhead})


if __name__ == "__main__":
    main()
