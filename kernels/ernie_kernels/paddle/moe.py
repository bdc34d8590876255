"""A layer of experts, as Paddle ops.

Which experts a token goes to decides the shapes of all that follows, so the router's logits come to the host
and the choice is made there (``ernie_kernels.routing``): one wait for the device in each layer. Rows are
gathered by expert, and each expert sees all of its rows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import ExpertBank, MlpWeights
from ernie_kernels.formats import ActivationType, round_to_bfloat16
from ernie_kernels.paddle.linear import PackedLinear, pack
from ernie_kernels.paddle.place import Place, Tensor, paddle
from ernie_kernels.paddle.step import DeviceStep
from ernie_kernels.routing import (
    RouterWeights,
    Routing,
    check_banks,
    check_experts,
    check_router,
    choose_experts,
)

_ROUTER_PARTS = 3
"""Numbers of 8 bits that make up one of float32's 24."""


@dataclass(frozen=True)
class PackedMlp:
    """The matrices of a gated MLP on a place."""

    gate_up: PackedLinear
    down: PackedLinear

    @classmethod
    def pack(cls, weights: MlpWeights, activation: ActivationType, place: Place) -> PackedMlp:
        """Bring the matrices to ``place``."""
        return cls(pack(weights.gate_up, activation, place), pack(weights.down, activation, place))

    def transform(self, x: Tensor) -> Tensor:
        """Return down(silu(gate(x)) * up(x))."""
        both = self.gate_up.multiply(x)
        if both.dtype == paddle.bfloat16:
            return self.down.multiply(paddle.incubate.nn.functional.swiglu(both))
        gate, up = paddle.split(both, 2, axis=-1)
        return self.down.multiply(paddle.nn.functional.silu(gate) * up)


@dataclass(frozen=True)
class Router:
    """The matrix of a router on a place, as three matrices whose numbers are bfloat16 and add up to it.

    An XPU multiplies float32 with TF32's eleven bits, which would send tokens to other experts; a product with
    numbers of eight bits is exact there, so that no variable has to slow all other products down.

    Attributes:
        parts: float32 ``[3 * E, H]``.
    """

    parts: Tensor

    @classmethod
    def pack(cls, gate: NDArray[np.float32], place: Place) -> Router:
        """Bring a matrix ``[E, H]`` to ``place``."""
        parts, rest = [], gate
        for _ in range(_ROUTER_PARTS):
            parts.append(round_to_bfloat16(rest))
            rest = rest - parts[-1]
        return cls(place.upload(np.concatenate(parts)))

    def logits(self, x: Tensor) -> Tensor:
        """Return x @ gate.T in float32, ``[T, E]``."""
        products = paddle.split(
            paddle.matmul(x.astype("float32"), self.parts, transpose_y=True), _ROUTER_PARTS, axis=-1
        )
        return products[2] + products[1] + products[0]


@dataclass(frozen=True)
class PaddleBank:
    """A router and its experts on a place.

    Attributes:
        router: the router, on the host.
        gate: its matrix on the place.
        experts: the rank's experts.
        place: the place.
        local_experts: the router's rows of ``experts``.
    """

    router: RouterWeights
    gate: Router
    experts: tuple[PackedMlp, ...]
    place: Place
    local_experts: range

    @classmethod
    def pack(cls, bank: ExpertBank, activation: ActivationType, place: Place) -> PaddleBank:
        """Bring the weights to ``place``, one expert at a time.

        Raises:
            ValueError: the sizes do not fit each other.
        """
        local_experts = check_router(bank.router, bank.local_experts)
        packed = tuple(PackedMlp.pack(expert, activation, place) for expert in bank.experts)
        check_experts(local_experts, len(packed))
        return cls(
            router=bank.router,
            gate=Router.pack(bank.router.gate, place),
            experts=packed,
            place=place,
            local_experts=local_experts,
        )

    def route(self, x: Tensor) -> Routing:
        """Return the experts of each row, on the host."""
        logits = np.asarray(self.gate.logits(x).numpy(), np.float32)
        return choose_experts(logits, self.router.correction_bias, self.router.experts_per_token)

    def transform(self, x: Tensor) -> Tensor:
        """Return the weighted sum of each row's experts: float32 ``[T, H]``."""
        if not x.shape[0]:
            return paddle.zeros_like(x).astype("float32")
        routing = self.route(x)
        count = self.router.experts_per_token
        chosen = routing.experts.reshape(-1)
        # Pair i is row i // count and its choice i % count; ``order`` lists the pairs by expert, then by row.
        order = np.argsort(chosen, kind="stable")
        starts = np.searchsorted(
            chosen[order], np.arange(self.local_experts.start, self.local_experts.stop + 1)
        )
        rows = self.place.upload((order // count).astype(np.int32))
        results = [
            expert.transform(paddle.gather(x, rows[start:end])).astype("float32")
            for expert, start, end in zip(self.experts, starts[:-1], starts[1:], strict=True)
            if start < end
        ]
        # The place of each pair among the results, [row][choice]. Experts of other ranks add zeros: one row of
        # zeros behind the results stands for all of them.
        places, num_local = np.argsort(order) - starts[0], starts[-1] - starts[0]
        is_elsewhere = (places < 0) | (places >= num_local)
        if is_elsewhere.any():
            places[is_elsewhere] = num_local
            results.append(self.place.upload(np.zeros((1, x.shape[1]), np.float32)))
        together = paddle.gather(paddle.concat(results), self.place.upload(places.astype(np.int32)))
        weighted = together * self.place.upload(routing.weights.reshape(-1, 1))
        return paddle.sum(weighted.reshape((-1, count, x.shape[1])), axis=1)


@dataclass(frozen=True)
class PaddleMoe:
    """A layer of experts on a place.

    Attributes:
        banks: that of all rows, or those of text and of vision.
        shared: the experts of all rows, if there are any.
    """

    banks: tuple[PaddleBank, ...]
    shared: PackedMlp | None

    @classmethod
    def pack(
        cls, banks: Sequence[ExpertBank], shared: MlpWeights | None, activation: ActivationType, place: Place
    ) -> PaddleMoe:
        """Bring the weights to ``place``, one expert at a time.

        Raises:
            ValueError: the sizes do not fit each other.
        """
        check_banks(len(banks))
        return cls(
            banks=tuple(PaddleBank.pack(bank, activation, place) for bank in banks),
            shared=None if shared is None else PackedMlp.pack(shared, activation, place),
        )

    def transform(self, x: Tensor, step: DeviceStep) -> Tensor:
        """Return shared(x) plus the weighted sum of each row's experts: ``[T, H]``."""
        total = transform_in_banks(x, [bank.transform for bank in self.banks], step)
        if self.shared is not None:
            total = total + self.shared.transform(x).astype("float32")
        return total.astype(x.dtype)


def transform_in_banks(x: Tensor, banks: Sequence[Callable[[Tensor], Tensor]], step: DeviceStep) -> Tensor:
    """Return what the experts of each row's bank make of it, in the order of ``x``."""
    if len(banks) == 1 or step.text_rows is None:
        return banks[0](x)
    if not step.text_rows.shape[0]:
        return banks[1](x)
    rows_of = step.text_rows, step.vision_rows
    results = [bank(paddle.gather(x, rows)) for bank, rows in zip(banks, rows_of, strict=True)]
    return paddle.gather(paddle.concat(results), step.bank_order)
