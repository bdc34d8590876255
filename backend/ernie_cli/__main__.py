"""The command ``ernie-triton``, from its first moment: a signal ends it well before anything is imported, too.

Only the standard library is imported here; the rest takes most of a second.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType


def main() -> None:
    """Entry point of the console script."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, _stop)  # until a command takes care of them itself
    from ernie_cli.main import main as run

    run()


def _stop(_number: int, _frame: FrameType | None) -> None:
    sys.stderr.write("Stopped.\n")
    sys.exit(0)


if __name__ == "__main__":
    main()
