"""The process of a rank other than 0: arguments, signals, log.

Started with one of two sets of arguments:

    --socket-fd N                      by rank 0, on its machine
    --settings JSON --index N          by whoever runs the ranks of another machine

SIGINT is ignored, since Ctrl-C reaches the whole foreground group and rank 0 ends its ranks itself. The death
of the parent kills the process, even a stopped one. This module must not know what the rank does.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import signal
import socket
import sys

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.errors import StartError
from ernie_backend.parallel.layout import engine_layout
from ernie_backend.parallel.rank_worker import Follower
from ernie_backend.parallel.rendezvous import reach_rank_0
from ernie_backend.settings.reader import model_directory, read_settings
from ernie_wire.processes import die_with_parent

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run a rank; return its exit status."""
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    parser = argparse.ArgumentParser(prog="python -m ernie_backend.parallel")
    parser.add_argument("--socket-fd", type=int, help="descriptor of the socket to rank 0")
    parser.add_argument("--settings", type=json.loads, default={}, help="the engine's parameters, JSON")
    parser.add_argument("--index", type=int, default=0, help="which of this machine's ranks this is")
    options = parser.parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"%(asctime)s rank process {os.getpid()} %(levelname)s %(name)s: %(message)s",
    )
    try:
        sock = _socket(options)
    except StartError as error:
        logger.error("%s", error.message)  # noqa: TRY400  one line, no traceback
        return 1
    return Follower(sock, options.settings).run()


def _socket(options: argparse.Namespace) -> socket.socket:
    if options.socket_fd is not None:
        return socket.socket(fileno=options.socket_fd)
    config = ModelConfig.from_directory(model_directory(options.settings))
    settings = read_settings(options.settings, config)
    layout = engine_layout(settings)
    return reach_rank_0(layout, options.index)
