"""A stub that is stopped or hangs while it starts, under a real ``serve``: Triton would wait for ever."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable

import psutil
import pytest

from support import http
from support.freezing import hang, stop
from support.serving import FLAGS, Serving

LIMIT_S = 300.0
NUM_LOADS = 3
STUB = "triton_python_backend_stub"


class Freezer(threading.Thread):
    """Freezes the first stubs of a service in their first moment."""

    def __init__(self, serving: Serving, freeze: Callable[[psutil.Process], None], times: int) -> None:
        super().__init__(daemon=True)
        self._serving = serving
        self._freeze = freeze
        self._times = times
        self.start()

    def run(self) -> None:
        frozen: set[psutil.Process] = set()
        while len(frozen) < self._times and self._serving.process.is_running():
            with contextlib.suppress(psutil.Error):  # it has just ended
                for stub in set(self._serving.descendants(STUB)) - frozen:
                    # Triton tries first, without arguments, whether its stub can be run.
                    if stub.name() == STUB and len(stub.cmdline()) > 1:
                        self._freeze(stub)
                        frozen.add(stub)


@pytest.mark.full
@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("freeze", [pytest.param(stop, id="stopped"), pytest.param(hang, id="hangs")])
def test_a_start_survives_a_stub_that_does_not_come_up(freeze: Callable[[psutil.Process], None]) -> None:
    serving = Serving("serve", *FLAGS)
    try:
        Freezer(serving, freeze, 1)
        url = serving.wait_until_ready()
        assert http.get(f"{url}/health").status_code == 200
        hung = [line for line in serving.output if "the load of the model hangs: " in line]
        assert len(hung) == 1
        assert hung[0].endswith("; tritonserver is restarted")
        serving.process.terminate()
        assert serving.wait() == 0
        assert serving.leftovers() == []
    finally:
        serving.close()


@pytest.mark.full
@pytest.mark.timeout(LIMIT_S)
def test_a_stub_that_never_comes_up_ends_it_with_one_line() -> None:
    serving = Serving("serve", *FLAGS)
    try:
        Freezer(serving, hang, NUM_LOADS)
        assert serving.process.wait(LIMIT_S) == 1
        assert serving.wait() == 1
        last = r"ernie-triton: the load of the model hangs: its stub has not run.* for 15 s, 3 times in a row"
        assert re.fullmatch(last, serving.output[-1])
        assert serving.leftovers() == []
    finally:
        serving.close()
