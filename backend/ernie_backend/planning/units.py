"""Sizes in bytes as text."""

from __future__ import annotations

_GIB, _MIB = 1 << 30, 1 << 20


def format_bytes(size: int) -> str:
    """Return a size as text: ``1.50 GiB``, or ``12.0 MiB`` below one GiB."""
    return f"{size / _GIB:,.2f} GiB" if size >= _GIB else f"{size / _MIB:,.1f} MiB"
