"""A signal, or too little memory, before anything is up ends the command well."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# Importing the commands is the moment that lasts; the signal comes in the midst of it.
CODE = """
import importlib.abc, os, signal, sys
class Interrupter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "ernie_cli.main":
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Interrupter())
from ernie_cli.__main__ import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_modules_are_imported(number: signal.Signals) -> None:
    result = subprocess.run(
        [sys.executable, "-c", CODE.format(number=int(number))], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "Stopped.\n")


def test_too_little_address_space_for_the_modules_is_one_line() -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (60 << 20, 60 << 20))\n"
    code += "import sys; sys.argv[1:] = ['serve', '--help']; from ernie_cli.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    told = "ernie-triton: 60 MiB of address space is too little to load its modules (ulimit -v)\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", told)
