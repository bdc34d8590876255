"""Hypothesis without clocks: how long an example takes says nothing on a machine with other work.

And signals as a terminal sets them, here and in every process that a test starts: ``nohup`` ignores SIGHUP, and
a shell without job control SIGINT of what runs in its background.
"""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("no clocks", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clocks")

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # exec puts the default in its place, not so for SIG_IGN
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
