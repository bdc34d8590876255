"""Grammars are tried in a process of their own before the engine compiles them.

llguidance recurses without a limit, so that a chain of 10,000 rules or references overflows its stack, and it
takes minutes for some short schemas, such as an ``allOf`` of fifty patterns. In this process, whose stack,
time and memory are limited, that costs one request its answer, and not all requests the engine.

    engine -> trial    size of the vocabulary, the vocabulary as JSON; then, for each grammar, size and source
    trial -> engine    size 0 when it is ready; then size and error of each, empty if it may be compiled
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import struct
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import IO

from ernie_backend.grammar.matcher import KILLED, TOO_COMPLEX, Matchers, Vocabulary

MAX_SECONDS = 3.0
"""Processor time for one grammar."""
MAX_BYTES = 1 << 30
"""Memory for one grammar."""
STACK_BYTES = 16 << 20
"""Enough for about 2,000 rules that each begin with the next one; the engine's workers have more."""
_SIZE = struct.Struct("<I")


class Trial:
    """The engine's end of one process, which starts with the first grammar, and again after one that ended it.

    One thread uses it at a time.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens = [token.decode("latin-1") for token in vocabulary.tokens]
        self._vocabulary = json.dumps([tokens, vocabulary.special_ids, vocabulary.eos_ids]).encode()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False

    def error_of(self, source: str) -> str:
        """Return llguidance's error of a grammar, or one of ``matcher``'s; empty if there is none.

        Raises:
            OSError, RuntimeError: the process cannot start.
        """
        process = self._process or self.start()
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        try:
            if not self._is_ready:
                _receive(process.stdout)
                self._is_ready = True
            _send(process.stdin, source.encode())
            return _receive(process.stdout).decode()
        except (BrokenPipeError, EOFError):
            self._end()
            self._process = None
            if not self._is_ready:
                raise RuntimeError(
                    f"the process that tries grammars ended at its start ({process.returncode})"
                ) from None
            return KILLED if process.returncode == -signal.SIGKILL else TOO_COMPLEX

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process, which makes the vocabulary meanwhile."""
        command = [sys.executable, "-m", "ernie_backend.grammar.trial"]
        process = self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._is_ready = False
        self._end = weakref.finalize(self, _end, process)
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended, as ``error_of`` finds
                _send(process.stdin, self._vocabulary)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, unless it has ended, and close its pipes."""
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # of what was not written
                pipe.close()
    process.wait()


def _send(stream: IO[bytes], data: bytes) -> None:
    stream.write(_SIZE.pack(len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    """Return the next message; raise EOFError at the end of the stream."""
    head = stream.read(_SIZE.size)
    if len(head) < _SIZE.size:
        raise EOFError
    (size,) = _SIZE.unpack(head)
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def main() -> None:
    """Try grammars until the engine closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the engine's end is enough
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=_try_all)
    thread.start()
    thread.join()


def _try_all() -> None:
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    tokens, special_ids, eos_ids = json.loads(_receive(requests))
    matchers = Matchers(Vocabulary([token.encode("latin-1") for token in tokens], special_ids, eos_ids))
    _limit_memory()
    _send(answers, b"")
    while True:
        try:
            source = _receive(requests).decode()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)  # the signal ends the process
        error = matchers.make(source)[1]
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(answers, error.encode())


def _limit_memory() -> None:
    """Let this process have no more than ``MAX_BYTES`` beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MAX_BYTES
    _, highest = resource.getrlimit(resource.RLIMIT_AS)  # which only root can raise
    if highest != resource.RLIM_INFINITY:
        limit = min(limit, highest)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
