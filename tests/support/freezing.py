"""Processes and threads that do not run, though they live: stopped, or held as a debugger holds them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

import psutil

HOLD = """
import ctypes, os, sys
ptrace = ctypes.CDLL(None).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
for thread in os.listdir(f"/proc/{sys.argv[1]}/task"):
    assert ptrace(SEIZE, int(thread), None, None) == 0
    ptrace(INTERRUPT, int(thread), None, None)
print("held", flush=True)
while True:
    try:
        os.waitpid(-1, WALL)
    except ChildProcessError:
        break
"""


def stop(process: psutil.Process) -> None:
    """Stop it, which whoever looks can see."""
    process.send_signal(signal.SIGSTOP)


def hang(process: psutil.Process) -> None:
    """Let none of its threads run, though it is not stopped, until it is killed."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(process.pid)], stdout=subprocess.PIPE)
    threading.Thread(target=holder.communicate, daemon=True).start()


def hold(thread_id: int) -> None:
    """Hold a thread, as a deadlock or a stuck driver does, until its process is killed or this one ends."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long] * 4
    ptrace.restype = ctypes.c_long
    for request in (0x4206, 0x4207):  # PTRACE_SEIZE and PTRACE_INTERRUPT of linux/ptrace.h
        if ptrace(request, thread_id, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
