"""A checkout is recognized by the files around the package, and an installed package is not one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ernie_cli import checkout as module
from ernie_cli import demo
from ernie_cli.checkout import checkout
from ernie_cli.errors import CommandError


def test_these_tests_run_from_a_checkout() -> None:
    assert checkout() == Path(__file__).parents[3]
    assert (demo.embedded_weights() / "config.json").is_file()


@pytest.mark.parametrize(
    ("package", "is_checkout"),
    [
        ("backend/ernie_cli", True),
        ("lib/python3.10/site-packages/ernie_cli", False),
        ("vendor/ernie_cli", False),  # pip install --target vendor, in a project with a pyproject.toml
    ],
)
def test_what_a_checkout_is(
    package: str, is_checkout: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / package / "checkout.py"
    code.parent.mkdir(parents=True)
    shutil.copy(module.__file__, code)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(module, "__file__", str(code))
    assert (checkout() == tmp_path) == is_checkout
    assert (checkout() is None) != is_checkout


def test_without_a_checkout_the_demo_needs_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "checkout", lambda: None)
    with pytest.raises(CommandError, match="--model DIRECTORY"):
        demo.embedded_weights()
