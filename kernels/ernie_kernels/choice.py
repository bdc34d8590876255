"""The choice of a token for each row of logits: what is asked, and who can do it.

A row's temperature divides its logits, whose exponentials are its weights. Then, in this order:

    min_p    drops tokens whose weight is below this part of the largest;
    top_k    keeps so many of the heaviest, of equals those with the lower index; 0 keeps all;
    top_p    keeps the fewest of the heaviest that together have at least this part of the weight left.

The row's number u in [0, 1) chooses among what is left: the token at which the sum of the weights, in the order
of the vocabulary, exceeds u times their total. Every row is computed alone: it does not depend on the others.

This module must not know requests or seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ChoiceRows:
    """What is asked of each of R rows.

    Attributes:
        temperatures: float32 ``[R]``, above 0.
        min_p: float32 ``[R]``, in [0, 1].
        top_k: int64 ``[R]``, 0 keeps all.
        top_p: float64 ``[R]``, in (0, 1].
        numbers: float64 ``[R]``, in [0, 1).
    """

    temperatures: NDArray[np.float32]
    min_p: NDArray[np.float32]
    top_k: NDArray[np.int64]
    top_p: NDArray[np.float64]
    numbers: NDArray[np.float64]


@runtime_checkable
class TokenChooser(Protocol):
    """Chooses tokens: ``ernie_kernels.cpu.CpuOps`` and ``ernie_kernels.reference.ReferenceOps`` do."""

    def choose_tokens(self, logits: NDArray[np.float32], rows: ChoiceRows) -> NDArray[np.int64]:
        """Return a token for each row of logits ``[R, V]``.

        The largest logit of each row is finite; -infinity is a weight of zero.
        """
        ...
