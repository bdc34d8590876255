"""Requests that schemathesis makes of a server's OpenAPI document, in a process of their own.

Hypothesis and schemathesis parse Python sources, which CPython 3.11 cannot do in two threads at once: a test
that runs a server beside them in its own process would now and then end in a SystemError.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def check_operations(url: str, num_cases: int, timeout_s: float) -> dict[tuple[str, int], int]:
    """Send requests to every operation; fails at the first answer that is not as the document says.

    Args:
        url: the server's.
        num_cases: how many requests each operation with a body gets.
        timeout_s: seconds for all of them.

    Returns:
        How often each operation gave each status.
    """
    done = subprocess.run(
        [sys.executable, "-m", "support.document_cases_program", url, str(num_cases)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return {(operation, status): count for operation, status, count in json.loads(done.stdout)}
