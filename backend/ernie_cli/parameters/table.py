"""The table: every flag of ``serve``, in the groups and the order in which they are shown."""

from __future__ import annotations

from ernie_cli.parameters.answer_flags import ANSWERS, MEDIA
from ernie_cli.parameters.batch_flags import BATCH
from ernie_cli.parameters.flag import Flag, Group
from ernie_cli.parameters.model_flags import COMPUTATION, MODEL
from ernie_cli.parameters.parallel_flags import PARALLEL, SEPARATION
from ernie_cli.parameters.server_flags import SERVER

GROUPS: tuple[Group, ...] = (SERVER, MODEL, COMPUTATION, BATCH, ANSWERS, MEDIA, PARALLEL, SEPARATION)
FLAGS: dict[str, Flag] = {flag.name: flag for group in GROUPS for flag in group.flags}
