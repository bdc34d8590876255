"""The engine takes the memory that the plan says: layers of full width, random weights, one step of full size,
and every block of the KV cache used. At the start the cache is only reserved.

In a process of its own each, since what other tests leave behind may be freed at any time. The wide models take
gigabytes and belong to the full tier.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ernie_cli.presets.released import RELEASED

MIB = 1 << 20
HUGE_PAGE = 2 * MIB
DEADLINE_S = 1800
TOKENS = 2048
CONTEXT = 16 * TOKENS
PROGRAM = """
import json, os, sys
from pathlib import Path
from ernie_backend.devices.backend import CPU
from ernie_backend.planning.engine_plan import engine_plan
from ernie_backend.devices.host import available_bytes, resident_bytes
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.parallel.worker import Worker
from ernie_backend.request.step_plan import ScheduledChunk, SchedulePlan
from ernie_backend.settings.reader import read_settings
from ernie_backend.service.start import start_engine
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters

def peak_bytes(process):
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

taken = {}
allocate = Worker.create_runner

def measured_allocate(worker, *arguments):
    before = resident_bytes()
    runner = allocate(worker, *arguments)
    taken["reserved"] = resident_bytes() - before
    return runner

def use_blocks(runner, num_blocks, times=1):
    # One token for each 16 of a block, since the C++ kernels write a page of so many for each of them.
    chunks = [
        ScheduledChunk(f"{block} {start} {time}", (3,), start, (block,), num_sampled=0)
        for time in range(times)
        for block in range(num_blocks)
        for start in range(0, settings.cache.block_size, 16)
    ]
    for start in range(0, len(chunks), settings.scheduler.max_num_batched_tokens):
        runner.run(SchedulePlan(tuple(chunks[start : start + settings.scheduler.max_num_batched_tokens])))

Worker.create_runner = measured_allocate
parameters = json.loads(sys.argv[1])
config = ModelConfig.from_directory(Path(parameters["model"]))
settings = read_settings(parameters, config)
plan = engine_plan(settings, config, CPU, available_bytes())
started = start_engine(parameters)
prompt = tuple(3 + index % 500 for index in range(settings.scheduler.max_num_batched_tokens))
request = GenerateRequest("1", input_ids=prompt, sampling=SamplingParameters(max_tokens=1))
started.engine.submit(started.input_processor.process(request))
while started.engine.has_work:
    started.engine.step()
# A step of so many chunks first, on one block: what it takes besides the cache is no part of the difference.
limits, cache = settings.scheduler, settings.cache
use_blocks(started.engine._runner, 1, limits.max_num_batched_tokens * 16 // cache.block_size)
before = resident_bytes()
use_blocks(started.engine._runner, plan.least_blocks)
taken["kv_cache"] = resident_bytes() - before
not_in_prompt = plan.least_blocks - len(prompt) // settings.cache.block_size
stages = started.ready.description.startup
weights = next(stage.size_bytes for stage in stages if stage.name.startswith("weights"))
ranks = [os.getpid(), *Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
# Planned as activations, made with weights:
rotary = settings.loading.max_model_len * plan.shape.config.head_dim * 4
print(json.dumps({
    "weights": [weights, sum(plan.weights.values()) + rotary],
    "reserved KV cache": [taken["reserved"], 0],
    "used KV cache": [taken["kv_cache"], not_in_prompt * plan.bytes_per_block],
    **{f"total of rank {rank}": [peak_bytes(process), plan.needed] for rank, process in enumerate(ranks)},
}))
"""


def measured(directory: Path, fields: Mapping[str, Any], **parameters: str) -> dict[str, list[int]]:
    """Return what an engine of a config.json takes and what was planned: weights, KV cache, the whole rank."""
    (directory / "config.json").write_text(json.dumps(fields))
    given = {
        "model": str(directory),
        "device": "cpu",
        "load_choices": "dummy",
        "max_model_len": str(CONTEXT),
        "max_num_seqs": "1",
        "max_num_batched_tokens": str(TOKENS),
        **parameters,
    }
    command = [sys.executable, "-c", PROGRAM, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


def check(found: dict[str, list[int]], num_layers: int = 2) -> None:
    for part, (taken, planned) in found.items():
        tolerance, slack = (0.10, 300e6) if part.startswith("total") else (0.01, 4 * MIB)
        if part == "used KV cache":
            slack += num_layers * HUGE_PAGE  # in each layer the one that the prompt's last block began
        assert abs(taken - planned) <= max(tolerance * planned, slack), (part, found)


def layers(name: str, **fields: Any) -> dict[str, Any]:
    """Return one dense layer and one with experts of a released model."""
    return {**RELEASED[name].fields, "num_hidden_layers": 2, "moe_layer_start_index": 1, **fields}


@pytest.mark.full
@pytest.mark.parametrize("quantization", ["none", "wint8"])
def test_two_layers_of_the_0_3b_take_what_is_planned(tmp_path: Path, quantization: str) -> None:
    fields = {**RELEASED["ERNIE-4.5-0.3B"].fields, "num_hidden_layers": 2}
    check(measured(tmp_path, fields, quantization=quantization))


@pytest.mark.full
@pytest.mark.timeout(2 * DEADLINE_S)
@pytest.mark.parametrize("quantization", ["none", "wint8", "wint4", "w4a8"])
@pytest.mark.parametrize(
    "fields",
    [layers("ERNIE-4.5-21B-A3B"), layers("ERNIE-4.5-300B-A47B", moe_num_experts=8)],
    ids=["21b", "300b-8-experts"],
)
def test_a_dense_and_an_expert_layer_of_full_width(
    tmp_path: Path, fields: dict[str, Any], quantization: str
) -> None:
    check(measured(tmp_path, fields, quantization=quantization))


@pytest.mark.full
@pytest.mark.timeout(2 * DEADLINE_S)
@pytest.mark.parametrize(
    ("fields", "quantization"),
    [
        (layers("ERNIE-4.5-VL-28B-A3B", moe_layer_end_index=27), "wint8"),
        (layers("ERNIE-4.5-VL-28B-A3B", moe_layer_end_index=27), "wint4"),
        (RELEASED["PaddleOCR-VL"].fields, "none"),
    ],
    ids=["vl-28b-wint8", "vl-28b-wint4", "ocr-0.9b"],
)
def test_models_with_a_whole_tower(tmp_path: Path, fields: Mapping[str, Any], quantization: str) -> None:
    """Both banks of experts are there. No picture comes, so of the whole rank only the limit holds."""
    found = measured(tmp_path, fields, quantization=quantization)
    taken, planned = found.pop("total of rank 0")
    assert taken <= planned
    check(found, fields["num_hidden_layers"])


@pytest.mark.full
@pytest.mark.timeout(2 * DEADLINE_S)
@pytest.mark.parametrize("quantization", ["wint8", "wint4", "w4a8"])
def test_four_ranks_of_300b_layers(tmp_path: Path, quantization: str) -> None:
    fields = layers("ERNIE-4.5-300B-A47B", moe_num_experts=8)
    found = measured(tmp_path, fields, quantization=quantization, tensor_parallel_size="4")
    assert "total of rank 3" in found
    check(found)


GROWTH = """
import numpy as np
from ernie_backend.devices.host import resident_bytes
from ernie_kernels.api import Batch, CacheSpec, RotarySpec
from ernie_kernels.cpu import CpuOps

ops, layers, pages = CpuOps(1), 16, 32
rotary = ops.pack_rotary(RotarySpec(128, 16, 1e4))
caches = [ops.allocate_cache(CacheSpec(10000, 16, 2, 128, "bfloat16")) for _ in range(layers)]
qkv = np.zeros((16 * pages, 6 * 128), np.float32)
growth = []
for step in range(20):  # of 512 tokens; a huge page holds the keys of 4096
    tables = np.arange(pages * step, pages * (step + 1), dtype=np.int32)[:, None]
    tokens, starts = np.zeros(16 * pages, np.int32), np.arange(0, 16 * pages + 1, 16, dtype=np.int32)
    positions, none = np.tile(np.arange(16, dtype=np.int32), pages), np.zeros(0, np.int32)
    batch = ops.upload(Batch(tokens, positions, starts, np.zeros(pages, np.int32), tables, none))
    before = resident_bytes()
    for cache in caches:
        ops.attention(qkv, rotary, cache, batch)
    growth.append(resident_bytes() - before)
print(max(growth[1:]))
"""


def test_the_layers_of_a_cache_do_not_all_begin_a_huge_page_in_the_same_step() -> None:
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 16 * HUGE_PAGE, "half of what keys and values of 16 layers would take together"
