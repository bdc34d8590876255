"""What starting makes of the settings."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ernie_backend.scheduler.limits import SchedulerLimits
from ernie_backend.settings import EngineSettings
from ernie_backend.start import _limits

RENAMED = {"max_waiting_time_s": "max_waiting_time"}
NO_SETTINGS = {"max_prompt_logit_rows"}


def test_every_limit_of_the_scheduler_is_the_setting_of_its_name() -> None:
    names = {each.name: RENAMED.get(each.name, each.name) for each in fields(SchedulerLimits)}
    values: dict[str, Any] = {setting: number for number, setting in enumerate(names.values(), 100)}
    for name in NO_SETTINGS:
        del values[names.pop(name)]
    limits = _limits(replace(EngineSettings(Path("m")), **values))
    assert {setting: getattr(limits, name) for name, setting in names.items()} == values
