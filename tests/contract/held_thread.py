"""Holds a thread of another process while its other threads go on, as a deadlock or a stuck driver does."""

from __future__ import annotations

import ctypes
import os

_SEIZE, _INTERRUPT = 0x4206, 0x4207  # linux/ptrace.h
_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = [ctypes.c_long] * 4
_ptrace.restype = ctypes.c_long


def hold(thread_id: int) -> None:
    """Hold a thread until its process is killed or this one ends."""
    for request in (_SEIZE, _INTERRUPT):
        if _ptrace(request, thread_id, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
