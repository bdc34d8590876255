"""Hypothesis without clocks: how long an example takes says nothing on a machine with other work.

Its examples are the same in every run, so that a change fails by what it changed; the full tier has new ones.

And signals as a terminal sets them, here and in every process that a test starts: ``nohup`` ignores SIGHUP, and
a shell without job control SIGINT of what runs in its background.
"""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings


def pytest_configure(config: pytest.Config) -> None:
    """Load the profile before the tests are imported."""
    is_full = config.option.markexpr == ""
    settings.register_profile(
        "no clocks", deadline=None, derandomize=not is_full, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("no clocks")


if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # exec puts the default in its place, not so for SIG_IGN
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
