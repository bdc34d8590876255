"""Hypothesis without clocks: how long an example takes says nothing on a machine with other work.

Its examples are the same in every run, so that a change fails by what it changed; the full tier has new ones.

Of the kernels' instruction sets the normal tier runs the scalar one, AVX2, the lowered one and the best that
the processor has; those between AVX2 and the best run in the full tier.

With several workers (``-n 2 --dist loadgroup``) one of them runs all tests that start servers, one after
another, while the others take the files of the unit and numerics tests.

And signals as a terminal sets them, here and in every process that a test starts: ``nohup`` ignores SIGHUP, and
a shell without job control SIGINT of what runs in its background.
"""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

ALONE_IN_A_FILE = {"unit", "numerics"}
"""Folders of tests that share nothing with other files: no port, no server."""


def pytest_configure(config: pytest.Config) -> None:
    """Load the profile before the tests are imported."""
    is_full = config.option.markexpr == ""
    settings.register_profile(
        "no clocks", deadline=None, derandomize=not is_full, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("no clocks")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Choose what runs in which tier, and on which worker."""
    leave_out_instruction_sets(items)
    for item in items:
        is_alone = not ALONE_IN_A_FILE.isdisjoint(item.path.parts)
        item.add_marker(pytest.mark.xdist_group(item.path.name if is_alone else "servers"))


def leave_out_instruction_sets(items: list[pytest.Item]) -> None:
    """Leave the instruction sets between AVX2 and the best one to the full tier."""
    from ernie_kernels.cpu import instruction_sets  # here: make sanitize chooses the library first

    names = instruction_sets()
    between = names[names.index("avx2") + 1 : -1] if "avx2" in names else ()
    for item in items:
        call = getattr(item, "callspec", None)
        values = () if call is None else call.params.values()
        if any(isinstance(value, str) and value.removeprefix("cpu-") in between for value in values):
            item.add_marker("full")


if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # exec puts the default in its place, not so for SIG_IGN
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
