"""The start of a ``serve`` as a table: seconds and memory of every stage, and time outside of all stages."""

from __future__ import annotations

from collections.abc import Sequence

from ernie_backend.planning.units import format_bytes
from ernie_wire.status import Description, Stage

_WIDTH = 44


def with_engine_stages(load: Stage, description: Description | None) -> list[Stage]:
    """Return the stages of loading the model: the engine's, from its description, and the rest of ``load``."""
    inside = description.startup if description else ()
    engine = [Stage(f"engine: {stage.name}", stage.seconds, stage.size_bytes) for stage in inside]
    rest = max(0.0, load.seconds - sum(stage.seconds for stage in engine))
    return [Stage("model entry: Triton's stub", rest), *engine]


def table(stages: Sequence[Stage], total_s: float) -> list[str]:
    """Return the lines of the table; ``total_s`` is the wall time from the process's start to its end."""
    unaccounted = Stage("(not accounted for)", total_s - sum(stage.seconds for stage in stages))
    lines = [f"{'Start-up':<{_WIDTH}}{'seconds':>9}{'memory':>14}"]
    lines += [_line(stage) for stage in (*stages, unaccounted)]
    return [*lines, _line(Stage("total", total_s), "")]


def _line(stage: Stage, indent: str = "  ") -> str:
    size = "" if stage.size_bytes is None else f"{format_bytes(stage.size_bytes):>14}"
    return f"{indent + stage.name:<{_WIDTH}}{stage.seconds:>9.2f}{size}"
