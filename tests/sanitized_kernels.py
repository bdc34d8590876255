"""A pytest plugin that puts a sanitized build of the C++ kernels in the place of the installed one.

    LD_PRELOAD=$(g++ -print-file-name=libasan.so) ERNIE_SANITIZED_CPU=build/sanitized/_cpu...so \\
        pytest -p sanitized_kernels tests/numerics/test_ops_linear.py

``make sanitize`` builds it and runs the tests of the ops. Paddle cannot be imported then: what its libraries do
with memory would be judged, too, and fail the run.
"""

from __future__ import annotations

import importlib.util
import os
import sys

NAME = "ernie_kernels.cpu._cpu"
FORBIDDEN = "paddle"


def install() -> None:
    spec = importlib.util.spec_from_file_location(NAME, os.environ["ERNIE_SANITIZED_CPU"])
    if spec is None or spec.loader is None:
        raise ImportError(f"ERNIE_SANITIZED_CPU names no extension module: {os.environ['ERNIE_SANITIZED_CPU']}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[NAME] = module
    sys.modules[FORBIDDEN] = None  # type: ignore[assignment]  # importing it raises ImportError


install()
