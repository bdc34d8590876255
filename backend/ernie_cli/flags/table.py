"""The table: every flag of ``serve``, in the groups and the order in which they are shown."""

from __future__ import annotations

from ernie_cli.flags.engine import ANSWERS, BATCH, COMPUTATION, MEDIA, MODEL
from ernie_cli.flags.fastdeploy import NO_EFFECT, REFUSED
from ernie_cli.flags.flag import Flag, Group
from ernie_cli.flags.service import SERVER

GROUPS: tuple[Group, ...] = (SERVER, MODEL, COMPUTATION, BATCH, MEDIA, ANSWERS, NO_EFFECT, REFUSED)
FLAGS: dict[str, Flag] = {flag.name: flag for group in GROUPS for flag in group.flags}
