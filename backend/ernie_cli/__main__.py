"""The command ``ernie-triton``, from its first moment: a signal ends it well before anything is imported, too.

Next to nothing is imported here; the rest takes most of a second.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

from ernie_wire.end_signals import end_signals


def main() -> None:
    """Entry point of the console script."""
    for number in end_signals():
        signal.signal(number, _stop)  # until a command takes care of them itself
    from ernie_cli.main import main as run

    run()


def _stop(_number: int, _frame: FrameType | None) -> None:
    sys.stderr.write("Stopped.\n")
    sys.exit(0)


if __name__ == "__main__":
    main()
