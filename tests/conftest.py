"""Hypothesis without clocks: how long an example takes says nothing on a machine with other work."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("no clocks", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clocks")
