"""The choice of experts for each token, as a pure NumPy function: the golden model of every router.

    p = softmax(x @ gate.T)                          over all experts, in float32
    chosen = the experts_per_token largest of p + correction_bias, of equals the lower index
    weights = p[chosen] / max(sum(p[chosen]), 1e-12)

The bias decides which experts are chosen, never their weights (auxiliary-loss-free balancing, Wang et al.,
2024). Every row is computed alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMALLEST_SUM = np.float32(1e-12)
"""Divisor of weights that are all but zero."""


@dataclass(frozen=True)
class RouterWeights:
    """How a layer chooses among E experts.

    Attributes:
        gate: float32 ``[E, H]``.
        correction_bias: float32 ``[E]``, added to the probabilities for the choice only.
        experts_per_token: 1 to E.
    """

    gate: NDArray[np.float32]
    correction_bias: NDArray[np.float32]
    experts_per_token: int


@dataclass(frozen=True)
class Routing:
    """Which experts each of T tokens goes to.

    Attributes:
        experts: int32 ``[T, experts_per_token]``, the best first.
        weights: float32 of the same shape.
    """

    experts: NDArray[np.int32]
    weights: NDArray[np.float32]


def check_router(router: RouterWeights, local_experts: range | None = None) -> range:
    """Check that the sizes fit each other; return the rank's experts, all if ``local_experts`` is None.

    Raises:
        ValueError: they do not, or a number is not finite: backends order NaN differently. It names the
            field, its value and the limit.
    """
    experts = len(router.gate)
    if router.correction_bias.shape != (experts,):
        raise ValueError(f"correction_bias has shape {router.correction_bias.shape}, expected ({experts},)")
    if not 1 <= router.experts_per_token <= experts:
        raise ValueError(f"experts_per_token is {router.experts_per_token}, expected 1 to {experts}")
    for name, values in (("gate", router.gate), ("correction_bias", router.correction_bias)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} of expert {np.argwhere(~np.isfinite(values))[0][0]} is not finite")
    local = range(experts) if local_experts is None else local_experts
    if not 0 <= local.start < local.stop <= experts:
        raise ValueError(f"local_experts is {local}, expected some of {range(experts)}")
    return local


def check_experts(local_experts: range, count: int) -> None:
    """Check that the rank has as many experts as it should.

    Raises:
        ValueError: there are not.
    """
    if count != len(local_experts):
        raise ValueError(f"there are {count} experts, the router has {len(local_experts)}")


def check_banks(num_banks: int) -> None:
    """Check how many banks of experts a layer has.

    Raises:
        ValueError: none, or more than two.
    """
    if not 1 <= num_banks <= 2:
        raise ValueError(
            f"a layer has {num_banks} banks of experts, expected 1, or those of text and of vision"
        )


def rows_of_banks(
    num_banks: int, num_rows: int, vision_rows: NDArray[np.int32] | None
) -> tuple[NDArray[np.intp], ...]:
    """Return the rows that each of one or two banks of experts sees; one bank sees all.

    Raises:
        ValueError: there are no banks, or more than two.
    """
    check_banks(num_banks)
    is_vision = np.zeros(num_rows, np.bool_)
    if num_banks == 2 and vision_rows is not None:
        is_vision[vision_rows] = True
    return tuple(np.flatnonzero(is_vision == bool(bank)) for bank in range(num_banks))


def choose_experts(
    logits: NDArray[np.float32], correction_bias: NDArray[np.float32], experts_per_token: int
) -> Routing:
    """Return the experts of each row of router logits float32 ``[T, E]``.

    A row with a logit that is NaN or +inf has the first experts with weights NaN.
    """
    with np.errstate(invalid="ignore"):  # inf - inf
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    order = np.argsort(-(probabilities + correction_bias), axis=1, kind="stable")
    experts = order[:, :experts_per_token]
    weights = np.take_along_axis(probabilities, experts, axis=1)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), SMALLEST_SUM)
    return Routing(experts.astype(np.int32), weights.astype(np.float32))
