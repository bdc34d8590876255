"""The command ``ernie-triton``, from its first moment: a signal ends it well before anything is imported, too.

Next to nothing is imported here; the rest takes up to half a second.
"""

from __future__ import annotations

import resource
import signal
import sys
from types import FrameType

from ernie_wire.processes import end_signals


def main() -> None:
    """Entry point of the console script."""
    for number in end_signals():
        signal.signal(number, _stop)  # until a command takes care of them itself
    try:
        from ernie_cli.main import COMMANDS, import_command
        from ernie_cli.main import main as run

        for name in sys.argv[1:2]:
            if name in COMMANDS:
                import_command(name)
    except (ImportError, MemoryError):
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            raise
        sys.exit(
            f"ernie-triton: {limit >> 20} MiB of address space is too little to load its modules (ulimit -v)"
        )
    run()


def _stop(_number: int, _frame: FrameType | None) -> None:
    sys.stderr.write("Stopped.\n")
    sys.exit(0)


if __name__ == "__main__":
    main()
