"""The checkout that this package is part of: an installed package has no model and no evaluation sets."""

from __future__ import annotations

from pathlib import Path


def checkout() -> Path | None:
    """Return the root of the checkout that this code runs from; None if it is an installed package."""
    package = Path(__file__).resolve().parent
    root = package.parents[1]
    is_checkout = package == root / "backend" / "ernie_cli" and (root / "pyproject.toml").is_file()
    return root if is_checkout else None
