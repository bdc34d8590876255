"""Makes all files of this process, and of the programs that it becomes or starts, readable by their owner only.

The umask is enough for most files, but not for Triton's shared memory, through which every prompt passes:
boost::interprocess creates a region and then sets its mode to 0644 with fchmod, which ignores the umask. To
change the mode back would be too late, since a process that has opened the region in between keeps it. So a
seccomp(2) filter lets an fchmod that opens a file to others succeed without effect. Umask and filter survive
exec and are inherited.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

_OTHERS_RIGHTS = 0o077

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h; without it only root may set a filter
_SYS_SECCOMP = 317  # on x86-64, as the two below
_SYS_FCHMOD = 91
_AUDIT_ARCH_X86_64 = 0xC000003E
_SET_MODE_FILTER = 1  # linux/seccomp.h
_FLAG_SPEC_ALLOW = 4  # nothing hostile is confined here, so speculation keeps its speed
_ALLOW = 0x7FFF0000
_SUCCEED_WITHOUT_EFFECT = 0x00050000  # SECCOMP_RET_ERRNO with errno 0

_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # linux/bpf_common.h
_NUMBER, _ARCHITECTURE, _MODE = 0, 4, 24  # offsets in struct seccomp_data; the mode is the second argument
_PROGRAM = (  # operation, instructions to skip if true and if false, operand
    (_LOAD, 0, 0, _ARCHITECTURE),
    (_JUMP_IF_EQUAL, 0, 5, _AUDIT_ARCH_X86_64),
    (_LOAD, 0, 0, _NUMBER),
    (_JUMP_IF_EQUAL, 0, 3, _SYS_FCHMOD),
    (_LOAD, 0, 0, _MODE),
    (_JUMP_IF_ANY_BIT, 0, 1, _OTHERS_RIGHTS),
    (_RETURN, 0, 0, _SUCCEED_WITHOUT_EFFECT),
    (_RETURN, 0, 0, _ALLOW),
)


class _Filter(ctypes.Structure):
    """``struct sock_fprog`` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def keep_files_private() -> None:
    """Set the umask and the filter; without a filter, a line on standard error says what stays readable."""
    os.umask(_OTHERS_RIGHTS)
    try:
        _ignore_opening_fchmod()
    except OSError as error:
        sys.stderr.write(
            f"shared memory of Triton stays readable by every user of this machine: no seccomp filter:"
            f" {error.strerror}\n"
        )


def _ignore_opening_fchmod() -> None:
    """Let an fchmod that gives others a right succeed without effect.

    Raises:
        OSError: the kernel refuses, or this is another architecture.
    """
    if platform.machine() != "x86_64":
        raise OSError(0, f"not written for {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in _PROGRAM)
    program = _Filter(len(_PROGRAM), code)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
        _SYS_SECCOMP, _SET_MODE_FILTER, _FLAG_SPEC_ALLOW, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
