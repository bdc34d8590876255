"""What ``doctor`` finds out about one thing."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Verdict(str, Enum):
    """Whether it is as it should be; ``warn``: it works, but not as well as it could."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        name: what was looked at.
        verdict: whether it is as it should be.
        found: what is there.
        fix: one thing to do, unless all is well.
    """

    name: str
    verdict: Verdict
    found: str
    fix: str = ""


def ok(name: str, found: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(name, Verdict.OK, found)


def warn(name: str, found: str, fix: str) -> Finding:
    """Return a finding about what works badly."""
    return Finding(name, Verdict.WARN, found, fix)


def fail(name: str, found: str, fix: str) -> Finding:
    """Return a finding about what prevents serving."""
    return Finding(name, Verdict.FAIL, found, fix)
