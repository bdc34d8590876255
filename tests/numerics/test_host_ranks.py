"""Sums of CPU ranks go in blocks of rows; between real processes they are tried by the goldens of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from ernie_kernels.communicator import ProcessGroupConfig
from ernie_kernels.paddle import process_group
from numerics.ops_cases import Floats, bits, random_floats


@pytest.mark.parametrize(("rows", "exchanged"), [(0, []), (1, [1]), (3, [3]), (4, [3, 1]), (7, [3, 3, 1])])
def test_blocks_change_no_bit(monkeypatch: pytest.MonkeyPatch, rows: int, exchanged: list[int]) -> None:
    factors = np.array([1.0, 0.3, -1.7], np.float32)
    met: list[int] = []

    def gather(ranks: process_group._HostCommunicator, x: Floats) -> Floats:
        met.append(len(x))
        return np.stack([factor * x for factor in factors])

    monkeypatch.setattr(process_group, "_BLOCK_VALUES", 3 * 5)
    monkeypatch.setattr(process_group._HostCommunicator, "_gather", gather)
    x = random_floats(1, rows, 5)
    total = process_group._HostCommunicator(ProcessGroupConfig(0, 3, "127.0.0.1:1", "127.0.0.1")).all_reduce(x)
    np.testing.assert_array_equal(bits(total), bits((factors[0] * x + factors[1] * x) + factors[2] * x))
    assert met == exchanged
