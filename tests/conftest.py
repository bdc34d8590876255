"""Hypothesis without clocks: how long an example takes says nothing on a machine with other work.

And SIGHUP as a terminal sets it for every process that a test starts, also under ``nohup``.
"""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("no clocks", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clocks")

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # exec puts the default in its place, not so for SIG_IGN
