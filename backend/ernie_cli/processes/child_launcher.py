"""What a child process does between fork and exec: it is tied to its parent, and its files become private.

    python -m ernie_cli.processes.child_launcher PARENT_PID COMMAND [ARGUMENT...]

The kernel then sends it SIGTERM when its parent ends in any way, SIGKILL included (``private_files.py`` has the
other half). Both survive exec, and in the parent nothing has to run between fork and exec.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from ernie_cli.processes.private_files import keep_files_private
from ernie_wire.processes import die_with_parent


def launcher_command(command: Sequence[str]) -> list[str]:
    """Return the command that runs ``command`` as a child of this process."""
    return [sys.executable, "-m", "ernie_cli.processes.child_launcher", str(os.getpid()), *command]


def main() -> None:
    """Prepare this process, and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    keep_files_private()
    die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the kernel was asked
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming the command is the point
    except OSError as error:
        sys.exit(f"{command[0]} cannot be run: {error.strerror}")


if __name__ == "__main__":
    main()
