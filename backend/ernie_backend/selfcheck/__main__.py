"""The self-check as a process of its own, since a faulty driver or kernel may end it: JSON lines to stdout."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from ernie_backend.devices.backend import BACKENDS
from ernie_backend.devices.host import usable_cores
from ernie_backend.errors import StartError
from ernie_backend.selfcheck import NOT_STARTED_STATUS
from ernie_backend.selfcheck.models import check_models
from ernie_backend.selfcheck.ops import check_ops
from ernie_backend.selfcheck.probes import check_probes
from ernie_backend.selfcheck.rates import measure_rates

_TOLERANCES = {"cpu": 4e-3, "reference": 1e-5}
"""CPUs with bfloat16 dots round queries, keys and values of the attention to 8 bits."""
_CARD_TOLERANCE = 3e-2
"""Of bfloat16 activations: 8 bits of mantissa through a few layers."""


def main() -> None:
    """Check the backend that the first argument names; with the second, ``rates``, only probe and measure."""
    name, only_rates = sys.argv[1], sys.argv[2:] == ["rates"]
    try:
        ops = BACKENDS[name].create_ops(usable_cores())
    except StartError as error:
        sys.stderr.write(f"{' '.join(error.message.split())}\n")
        sys.exit(NOT_STARTED_STATUS)
    tolerance = _TOLERANCES.get(name, _CARD_TOLERANCE)
    programs = [check_probes(ops), measure_rates(ops)]
    if not only_rates:
        programs = [check_ops(ops, tolerance), check_models(ops, tolerance), *programs]
    for program in programs:
        for check in program:
            sys.stdout.write(json.dumps(asdict(check)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
