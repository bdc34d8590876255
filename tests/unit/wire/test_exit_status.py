"""Exits in words."""

from __future__ import annotations

import pytest

from ernie_wire.exit_status import Exit


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (0, "exited with status 0; its log says why"),
        (3, "exited with status 3; its log says why"),
        (-9, "was killed by SIGKILL, probably by the kernel because memory ran out (see dmesg)"),
        (-11, "was ended by SIGSEGV"),
        (-40, "was ended by signal 40"),
    ],
)
def test_exits_in_words(returncode: int, words: str) -> None:
    assert Exit.of(returncode) == (words, -returncode if returncode < 0 else None)
