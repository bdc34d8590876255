"""A killed stub leaves no engine, not even a stopped one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from support.paths import DENSE
from support.rank_engines import wait_for_the_end_of

STUB = """
import signal, socket, subprocess, sys
ours, theirs = socket.socketpair()
command = [sys.executable, "-m", "ernie_backend", "--socket-fd", str(theirs.fileno())]
engine = subprocess.Popen([*command, "--settings", sys.argv[1]], pass_fds=(theirs.fileno(),))
ours.recv(1)
print(engine.pid, flush=True)
signal.pause()
"""


def test_no_engine_outlives_a_killed_stub_not_even_a_stopped_one() -> None:
    settings = json.dumps({"model": str(DENSE), "device": "cpu", "threads": "1"})
    with subprocess.Popen([sys.executable, "-c", STUB, settings], stdout=subprocess.PIPE, text=True) as stub:
        assert stub.stdout is not None
        engine = int(stub.stdout.readline())
        os.kill(engine, signal.SIGSTOP)
        stub.kill()
    wait_for_the_end_of([engine])
