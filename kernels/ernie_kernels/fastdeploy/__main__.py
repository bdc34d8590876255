"""``python -m ernie_kernels.fastdeploy FILE`` loads FastDeploy's ops and says what they are, or what fails.

A process of its own for ``doctor``: what the ops' C++ does when it is loaded may end it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ernie_kernels.fastdeploy.library import load_library
from ernie_kernels.fastdeploy.limits import summary


def main() -> int:
    """Print a line about the ops in the file that the argument names; return the exit status."""
    try:
        import ernie_kernels.paddle.place  # noqa: F401 - the ops link to Paddle's library, so it comes first

        lineage = load_library(Path(sys.argv[1])).lineage
    except (ImportError, OSError, RuntimeError) as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return 1
    sys.stdout.write(f"{lineage.value}: {summary(lineage)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
