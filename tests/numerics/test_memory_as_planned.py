"""The engine takes the memory that the plan says: layers of full width, random weights, one step of full size.

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
DEADLINE_S = 1800
TOKENS = 2048
PROGRAM = """
import json, sys
from pathlib import Path
from ernie_backend.memory.engine_plan import engine_plan
from ernie_backend.memory.host_memory import available_bytes, resident_bytes
from ernie_backend.model_config import ModelConfig
from ernie_backend.settings import read_settings
from ernie_backend.stages import Stage
from ernie_backend.start import start_engine
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters

parameters = json.loads(sys.argv[1])
settings = read_settings(parameters, ModelConfig.from_directory(Path(parameters["model"])))
plan = engine_plan(settings, "cpu", available_bytes())
started = start_engine(parameters)
prompt = tuple(3 + index % 500 for index in range(settings.max_model_len - 1))
request = GenerateRequest("1", input_ids=prompt, sampling=SamplingParameters(max_tokens=1))
started.engine.submit(started.preparation.prepare(request))
while started.engine.has_work:
    started.engine.step()
stages = map(Stage.from_json, started.ready.description["startup"])
sizes = {stage.name.split()[0]: stage.size_bytes for stage in stages}
print(json.dumps({
    "weights": [sizes["weights"], sum(plan.weights.values())],
    "kv_cache": [sizes["KV"], plan.least_blocks * plan.bytes_per_block],
    "total": [resident_bytes(), plan.needed],
}))
"""


def measured(directory: Path, fields: Mapping[str, Any], **parameters: str) -> dict[str, list[int]]:
    """Return what an engine of a config.json takes and what was planned: weights, KV cache, all of it."""
    (directory / "config.json").write_text(json.dumps(fields))
    given = {
        "model": str(directory),
        "device": "cpu",
        "load_choices": "dummy",
        "max_model_len": str(TOKENS),
        "max_num_seqs": "1",
        "max_num_batched_tokens": str(TOKENS),
        **parameters,
    }
    command = [sys.executable, "-c", PROGRAM, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


def check(found: dict[str, list[int]]) -> None:
    for part, tolerance in (("weights", 0.01), ("kv_cache", 0.01), ("total", 0.10)):
        taken, planned = found[part]
        slack = 300 * MIB if part == "total" else 48 * MIB  # malloc keeps up to 32 MiB of what was freed
        assert abs(taken - planned) <= max(tolerance * planned, slack), (part, found)


def layers(name: str, **fields: Any) -> dict[str, Any]:
    """Return one dense layer and one with experts of a released model."""
    return {**RELEASED[name].fields, "num_hidden_layers": 2, "moe_layer_start_index": 1, **fields}


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
