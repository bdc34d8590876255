"""Every Paddle kernel that serving a model runs is in the KL3 list, with its dtype.

Paddle on an XPU runs anything else on the CPU without a word. Its log at level 6 names the kernel and dtype
that it selects for each call; the list is ``kl3_ops.json``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

KERNEL = re.compile(r"\] (\w+) API kernel key: \[(\w+), [^,\]]+, (\w+)\]")
VIEWS = {"reshape", "squeeze", "unsqueeze", "transpose", "split", "split_with_num", "view_dtype"}
"""Kernels that only make a view of their input: Paddle runs them for any place before it looks at the list."""

Kernels = Counter[tuple[str, str]]


def kernels_in(log: str) -> Kernels:
    """(kernel, dtype) -> calls; an in-place kernel ends in ``_`` and counts as its plain twin."""
    return Counter((found[1].rstrip("_"), found[3]) for found in KERNEL.finditer(log))


def violations(kernels: Kernels) -> list[tuple[str, str]]:
    listed = json.loads((files("ernie_kernels.xpu") / "kl3_ops.json").read_text())["phi_ops"]
    return sorted(
        (name, dtype) for name, dtype in kernels if name not in VIEWS and dtype not in listed.get(name, [])
    )


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests), *sys.path])
    result = subprocess.run(
        [sys.executable, str(tests / "numerics" / "kl3_audit_program.py")],
        env={**os.environ, "GLOG_vmodule": "api=6", "GLOG_logtostderr": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return kernels_in(result.stderr)


def test_the_audit_finds_what_is_not_listed() -> None:
    log = (
        "I1122 20:32:03.190342  9475 api.cc:53783] div_scale API kernel key: [CPU, NCHW, float32]\n"
        "I1122 20:32:03.190342  9475 api.cc:53783] bitwise_and_ API kernel key: [CPU, NCHW, int32]\n"
        "I1122 20:32:03.190342  9475 api.cc:53783] full API kernel key: [CPU, Undefined(AnyLayout), float32]\n"
    )
    assert violations(kernels_in(log)) == [("bitwise_and", "int32"), ("div_scale", "float32")]
    assert kernels_in(log)["full", "float32"] == 1


def test_the_program_was_seen(kernels: Kernels) -> None:
    assert kernels["matmul", "float32"] > 100
    assert kernels["scatter", "float32"] > 10
    assert kernels["gather", "int8"] > 0
    assert kernels["scatter", "int32"] > 0
    assert kernels["round", "float32"] > 10
    assert kernels["sum", "float32"] > 10, "no experts"


def test_every_kernel_is_listed(kernels: Kernels) -> None:
    assert violations(kernels) == []
