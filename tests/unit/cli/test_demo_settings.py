"""What the demo serves is the entry of the repository, with the entry's own parameters."""

from __future__ import annotations

from ernie_cli.demo import EMBEDDED_ENTRY, EMBEDDED_PARAMETERS
from ernie_wire.tensors import config_pbtxt
from support.paths import REPOSITORY


def test_the_demo_and_a_plain_triton_compute_alike() -> None:
    expected = config_pbtxt(EMBEDDED_ENTRY, {"model": "weights", **EMBEDDED_PARAMETERS})
    assert (REPOSITORY / EMBEDDED_ENTRY / "config.pbtxt").read_text() == expected
