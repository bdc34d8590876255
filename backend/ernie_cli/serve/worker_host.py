"""The ranks of a machine that is not the first of ``--ips``: started, and restarted for every new group.

A rank ends with its group, with status 0, and a new one then waits for the next group. One that cannot start
(status 1) ends the command; one that dies in another way is restarted after a pause. A stopped one cannot
notice that its group is gone: it is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping

from ernie_backend.parallel.layout import Layout
from ernie_backend.parallel.rank_channel import rank_command
from ernie_cli.errors import CommandError
from ernie_cli.processes.child import Child, ChildCommand
from ernie_cli.processes.supervisor import STOP_GRACE_S, Supervisor
from ernie_frontend.log_output import print_line, standard_error

_CANNOT_START = 1
_PAUSE_S = 1.0
_STOPPED_S = 15.0  # before a stopped rank is killed: rank 0 should report it first


async def keep_ranks(layout: Layout, parameters: Mapping[str, str]) -> None:
    """Keep this machine's ranks running until a signal comes.

    Args:
        layout: which ranks are on which machine.
        parameters: the engine's, as on the first machine; ``model`` is a directory of this machine.

    Raises:
        StopRequested: a signal came.
        CommandError: a rank could not start.
    """
    first = layout.rank(layout.own_host, 0)
    print_line(
        f"Ranks {first} to {first + layout.ranks_per_host - 1} of {layout.size} run here; the API is on "
        f"{layout.hosts[0]}, which they reach at port {layout.port}"
    )
    async with Supervisor() as supervisor:
        await supervisor.run(_keep_all(layout.ranks_per_host, json.dumps(dict(parameters))))


async def _keep_all(count: int, settings: str) -> None:
    keepers = [asyncio.create_task(_keep(index, settings)) for index in range(count)]
    try:
        await asyncio.gather(*keepers)
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


async def _keep(index: int, settings: str) -> None:
    command = rank_command(["--settings", settings, "--index", str(index)])
    origin = ChildCommand(f"rank process {index}", command, os.environ, STOP_GRACE_S, _STOPPED_S)
    while True:
        child = await Child.start(origin, standard_error())
        try:
            error = await child.ended()
        finally:
            await child.stop()
        if child.status == _CANNOT_START:
            raise CommandError(f"rank process {index} cannot start", error.last_lines)
        if child.status:
            standard_error().write(f"{error.message}; it is restarted\n")
        await asyncio.sleep(_PAUSE_S)
