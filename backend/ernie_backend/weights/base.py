"""Where a model takes its weights from, by role and as its rank has them: a checkpoint, or random numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.weights.precision import Precision, WeightFormat, activation_of
from ernie_backend.weights.roles import Role
from ernie_backend.weights.sharding import Shard, experts_of
from ernie_kernels.api import CacheScales, ExpertBank, MlpWeights
from ernie_kernels.formats import ActivationType, LinearWeight, dequantize
from ernie_kernels.routing import RouterWeights


@dataclass(frozen=True)
class MoeWeights:
    """A layer of experts as one rank has it.

    Attributes:
        banks: the routed experts: those of all tokens, or those of text and of vision.
        shared: the shared experts as one MLP; None if there are none, or another rank adds them.
    """

    banks: tuple[ExpertBank, ...]
    shared: MlpWeights | None


class ModelWeights(ABC):
    """The weights of a rank, made one at a time: only the model holds several.

    Args:
        config: the model's sizes.
        precision: their formats in memory.
        shard: the rank whose part of each matrix is returned; None: the whole.
    """

    def __init__(self, config: ModelConfig, precision: Precision, shard: Shard | None) -> None:
        self._config = config
        self._precision = precision
        self._shard = shard or Shard()

    @abstractmethod
    def linear(self, role: Role, layer: int = 0, expert: int = 0) -> LinearWeight:
        """Return the rank's part of the ``[N, K]`` matrix of ``role`` in its format in memory."""

    @abstractmethod
    def vector(self, role: Role, layer: int = 0) -> NDArray[np.float32]:
        """Return the float32 ``[K]`` vector of ``role``."""

    @abstractmethod
    def cache_scales(self, layer: int) -> CacheScales | None:
        """Return the static scales of the rank's int8 KV cache, if the model brings them."""

    @staticmethod
    def activation_of(role: Role, activation: ActivationType) -> ActivationType:
        """Return how the inputs of the matrix with ``role`` are rounded under a setting."""
        return activation_of(role, activation)

    @property
    def has_partial_sums(self) -> bool:
        """Whether results of attention and dense MLPs are summed over the ranks, not whole on each."""
        return not self._shard.is_dense_whole

    def moe(self, layer: int) -> MoeWeights:
        """Return the experts of a layer that has some."""
        moe = self._config.moe
        assert moe is not None  # noqa: S101 - the layer has experts
        bias_of = self.vector(Role.ROUTER_BIAS, layer).reshape(len(self._config.expert_banks), -1)
        has_shared = moe.num_shared_experts and experts_of(Role.SHARED_DOWN, 1, self._shard)
        return MoeWeights(
            tuple(self._bank(layer, index, bias) for index, bias in enumerate(bias_of)),
            self._mlp(Role.SHARED_GATE_UP, Role.SHARED_DOWN, layer) if has_shared else None,
        )

    def _bank(self, layer: int, index: int, bias: NDArray[np.float32]) -> ExpertBank:
        """Return bank 0 of all tokens or of text, or bank 1 of media, whose numbers follow those of text."""
        bank = self._config.expert_banks[index]
        gate = dequantize(self.linear((Role.ROUTER, Role.VISION_ROUTER)[index], layer))
        local_experts = experts_of(Role.EXPERT_DOWN, bank.num_experts, self._shard)
        first = index * bank.num_experts
        experts = (
            self._mlp(Role.EXPERT_GATE_UP, Role.EXPERT_DOWN, layer, first + expert) for expert in local_experts
        )
        return ExpertBank(RouterWeights(gate, bias, bank.experts_per_token), experts, local_experts)

    def _mlp(self, gate_up: Role, down: Role, layer: int, expert: int = 0) -> MlpWeights:
        return MlpWeights(self.linear(gate_up, layer, expert), self.linear(down, layer, expert))

    def _format(self, role: Role) -> WeightFormat:
        return self._precision.format_of(role)
