"""The table of the start: all of the wall time is in it, and what no stage accounts for is shown."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from ernie_backend.service.stages import Stages
from ernie_cli.serve.startup_table import table, with_engine_stages
from ernie_wire.status import Stage
from fakes.descriptions import description


def test_the_engines_stages_take_the_place_of_the_loading() -> None:
    inside = (Stage("weights", 2.0, 3 << 20), Stage("warm-up", 0.5))
    stages = with_engine_stages(Stage("model", 4.0), description(startup=inside))
    assert stages == [
        Stage("model entry: Triton's stub", 1.5),
        Stage("engine: weights", 2.0, 3 << 20),
        Stage("engine: warm-up", 0.5),
    ]
    assert with_engine_stages(Stage("model", 4.0), None) == [Stage("model entry: Triton's stub", 4.0)]


def test_the_seconds_add_up_to_the_total() -> None:
    lines = table([Stage("ports", 1.25), Stage("weights", 2.5, 3 << 20)], 5.0)
    assert [line.split() for line in lines] == [
        ["Start-up", "seconds", "memory"],
        ["ports", "1.25"],
        ["weights", "2.50", "3.0", "MiB"],
        ["(not", "accounted", "for)", "1.25"],
        ["total", "5.00"],
    ]
    figures = [float(re.split(r"\s{2,}", line.strip())[1]) for line in lines[1:]]
    assert sum(figures[:-1]) == pytest.approx(figures[-1])


def test_the_first_stage_begins_with_the_process() -> None:
    program = (
        "import time; time.sleep(0.5)\nfrom ernie_backend.service.stages import Stages\n"
        "print(Stages('Python').list[0].seconds)"
    )
    started = time.monotonic()
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert 0.5 <= float(output) <= time.monotonic() - started + 0.02


def test_a_stage_that_fails_is_not_kept() -> None:
    stages = Stages("first")
    with pytest.raises(RuntimeError), stages.stage("second"):
        raise RuntimeError
    with stages.stage("third") as third:
        third.size_bytes = 7
    assert [stage.name for stage in stages.list] == ["first", "third"]
    assert stages.list[1].size_bytes == 7
