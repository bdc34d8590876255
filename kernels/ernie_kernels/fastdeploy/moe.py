"""A layer of experts for FastDeploy's kernels: weights in stacks, and the chain of ops.

    bfloat16           xpu_moe_layer: router, choice, experts and their sum in one op
    int8, int4, w4a8   moe_topk_select, ep_moe_expert_dispatch, moe_expert_ffn, ep_moe_expert_combine

Stacks are ``[E, N, K]``, with two int4 codes to a byte, the even input in the low nibble, and float32 scales
``[E, N]`` that are the absmax of an output. Read in PaddlePaddle/FastDeploy: fused_moe.py at 02f67237;
moe_layer.cc at 11832a8d, moe_ep_dispatch.cc at 0fe29879 and moe_expert_ffn.cc at 0505c078.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import ExpertBank, UnsupportedError
from ernie_kernels.fastdeploy.attention import first
from ernie_kernels.fastdeploy.library import Library, Lineage
from ernie_kernels.fastdeploy.limits import SPREAD_EXPERTS
from ernie_kernels.formats import (
    Bfloat16Weight,
    Int4Weight,
    Int8Weight,
    LinearWeight,
    W4A8Weight,
)
from ernie_kernels.paddle.moe import PackedMlp, Router, transform_in_banks
from ernie_kernels.paddle.place import BFLOAT16, Place, Tensor, paddle
from ernie_kernels.paddle.step import DeviceStep
from ernie_kernels.routing import check_banks, check_experts, check_router

_NAMES: dict[type, str] = {
    Bfloat16Weight: "w16a16",
    Int8Weight: "weight_only_int8",
    Int4Weight: "weight_only_int4",
    W4A8Weight: "w4a8",
}
"""What FastDeploy calls a format."""
_FFN_NAMES = {
    "weight_only_int8": "w_channelwise_int8_a_tokenwise_float16",
    "weight_only_int4": "w_channelwise_int4_a_tokenwise_int15",
    "w4a8": "w_channelwise_int4_a_expertwise_int8",
}
"""What ``moe_expert_ffn`` calls it since 2.4, with how inputs are rounded: FastDeploy's defaults."""


@dataclass(frozen=True)
class Stack:
    """The same matrix of all experts.

    Attributes:
        values: bfloat16 ``[E, N, K]``, int8 ``[E, N, K]``, or int8 ``[E, N, K / 2]`` with two codes to a byte.
        absmax: float32 ``[E, N]``, what the largest code stands for; None for bfloat16.
        input_absmax: float32 ``[E]`` for w4a8, else None.
        rotation: for w4a8, the Hadamard block of its inputs; 0: none.
    """

    values: Tensor
    absmax: Tensor | None
    input_absmax: Tensor | None
    rotation: int


@dataclass
class HostStack:
    """A stack while the experts come, one at a time; the memory for all is taken with the first."""

    count: int
    kind: type | None = None
    rotation: int = 0
    values: NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.int8))
    absmax: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    inputs: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    def put(self, index: int, weight: LinearWeight) -> None:
        """Keep the matrix of expert ``index``.

        Raises:
            UnsupportedError: FastDeploy's kernels have no such format, or rows of an odd number of int4 codes.
            ValueError: the experts differ in format or shape.
        """
        codes, absmax, input_absmax, rotation = _parts(weight)
        if self.kind is None:
            self.kind, self.rotation = type(weight), rotation
            self.values = np.zeros((self.count, *codes.shape), codes.dtype)
            self.absmax = np.zeros((self.count, len(absmax)), np.float32)
            self.inputs = np.zeros(self.count, np.float32)
        if (type(weight), rotation, codes.shape) != (self.kind, self.rotation, self.values.shape[1:]):
            raise ValueError(f"expert {index} has another format or shape than the first")
        self.values[index], self.absmax[index], self.inputs[index] = codes, absmax, input_absmax

    def upload(self, place: Place) -> Stack:
        """Bring all to ``place``."""
        is_float, is_static = self.kind is Bfloat16Weight, self.kind is W4A8Weight
        values = place.upload_bfloat16(self.values) if is_float else place.upload(self.values.view(np.int8))
        return Stack(
            values,
            None if is_float else place.upload(self.absmax),
            place.upload(self.inputs) if is_static else None,
            self.rotation,
        )


def _parts(weight: LinearWeight) -> tuple[NDArray[Any], NDArray[np.float32], float, int]:
    """Return codes, the absmax of outputs and of inputs, and the rotation."""
    if isinstance(weight, W4A8Weight):
        packed, absmax, _, _ = _parts(weight.weight)
        return packed, absmax, weight.input_scale * 127, weight.rotation
    if isinstance(weight, Int4Weight):
        if weight.inputs % 2:
            raise UnsupportedError(
                f"FastDeploy's kernels need an even number of inputs for int4; there are {weight.inputs}; "
                "use --quantization wint8"
            )
        return weight.packed, weight.scales * np.float32(7), 0.0, 0
    if isinstance(weight, Int8Weight):
        return weight.codes, weight.scales * np.float32(127), 0.0, 0
    if isinstance(weight, Bfloat16Weight):
        return weight.bits, np.zeros(len(weight.bits), np.float32), 0.0, 0
    raise UnsupportedError("FastDeploy's kernels have no float32 experts; use --dtype bfloat16")


@dataclass(frozen=True)
class FastDeployBank:
    """A router and its experts on the device.

    Attributes:
        library: the ops.
        name: FastDeploy's name of the experts' format.
        experts_per_token: as in ``RouterWeights``.
        gate: float32 ``[E, H]``, for the op that has its own router.
        router: the matrix in exact parts, for the others.
        correction_bias: float32 ``[E]``.
        gate_up, down: the experts.
    """

    library: Library
    name: str
    experts_per_token: int
    gate: Tensor
    router: Router
    correction_bias: Tensor
    gate_up: Stack
    down: Stack

    @classmethod
    def pack(cls, bank: ExpertBank, place: Place, library: Library) -> FastDeployBank:
        """Bring a bank to ``place``.

        Raises:
            UnsupportedError: some of the experts only, or a format that the kernels lack.
            ValueError: the sizes do not fit each other.
        """
        router, count = bank.router, len(bank.router.gate)
        if check_router(router, bank.local_experts) != range(count):
            raise UnsupportedError(SPREAD_EXPERTS)
        gate_up, down = HostStack(count), HostStack(count)
        number = 0
        for number, expert in enumerate(bank.experts, 1):
            if number <= count:
                gate_up.put(number - 1, expert.gate_up)
                down.put(number - 1, expert.down)
        check_experts(range(count), number)
        if gate_up.rotation:
            raise UnsupportedError(
                "FastDeploy's kernels rotate the inputs of an expert's down matrix only; quantize the "
                "checkpoint anew by ernie-triton quantize --quantization w4a8"
            )
        return cls(
            library=library,
            name=_NAMES[gate_up.kind or Bfloat16Weight],
            experts_per_token=router.experts_per_token,
            gate=place.upload(router.gate),
            router=Router.pack(router.gate, place),
            correction_bias=place.upload(router.correction_bias),
            gate_up=gate_up.upload(place),
            down=down.upload(place),
        )

    def transform(self, x: Tensor) -> Tensor:
        """Return the weighted sum of each row's experts: ``[T, H]``."""
        return self._fused(x) if self.name == "w16a16" else self._chained(x)

    def _fused(self, x: Tensor) -> Tensor:
        return first(
            self.library.xpu_moe_layer(
                x=x,
                gate_weight=self.gate,
                gate_correction_bias=self.correction_bias,
                up_gate_proj_weight=self.gate_up.values,
                down_proj_weight=self.down.values,
                up_gate_proj_bias=None,
                down_proj_bias=None,
                up_gate_proj_weight_scale=None,
                down_proj_weight_scale=None,
                down_proj_in_scale=None,
                quant_method=self.name,
                moe_top_k=self.experts_per_token,
                moe_group=False,
            )
        )

    def _chained(self, x: Tensor) -> Tensor:
        library, pairs = self.library, x.shape[0] * self.experts_per_token
        ids, weights = library.moe_topk_select(
            gating_logits=self.router.logits(x),
            bias=self.correction_bias,
            moe_topk=self.experts_per_token,
            apply_norm_weight=True,
        )
        sorted_x, indices, lod, _, input_absmax = library.ep_moe_expert_dispatch(
            input=x,
            topk_ids=ids,
            topk_weights=weights,
            input_scales=self.gate_up.input_absmax,
            token_nums_per_expert=list(range(self.gate_up.values.shape[0])),  # only its length is read
            token_nums_this_rank=pairs,
            quant_method=self.name,
        )
        results = self._experts(sorted_x, lod, input_absmax, pairs)
        return first(
            library.ep_moe_expert_combine(
                ffn_out=results,
                moe_index=indices,
                weights=weights.astype(BFLOAT16),
                recv_token_num=x.shape[0],
                expand_token_num=pairs,
                hidden_dim=x.shape[1],
                topk=self.experts_per_token,
            )
        )

    def _experts(self, x: Tensor, lod: Tensor, input_absmax: Tensor, pairs: int) -> Tensor:
        is_static = self.gate_up.input_absmax is not None
        is_old = self.library.lineage is Lineage.V2_3
        biases: Sequence[str] = ("ffn1_bias", "ffn2_bias", "ffn2_shift", "ffn2_smooth")
        return first(
            self.library.moe_expert_ffn(
                ffn_in=x,
                token_num_info=lod,
                ffn1_weight=self.gate_up.values,
                ffn2_weight=self.down.values,
                ffn1_act_scale=input_absmax if is_static else None,
                ffn2_act_scale=self.down.input_absmax,
                ffn1_weight_scale=self.gate_up.absmax,
                ffn2_weight_scale=self.down.absmax,
                **dict.fromkeys(biases),
                quant_method=self.name if is_old else _FFN_NAMES[self.name],
                hadamard_blocksize=self.down.rotation if self.down.rotation else -1,
                valid_token_num=pairs,
            )
        )


@dataclass(frozen=True)
class FastDeployMoe:
    """A layer of experts: that of all rows, or those of text and of vision; and the shared ones, if any."""

    banks: tuple[FastDeployBank, ...]
    shared: PackedMlp | None

    def __post_init__(self) -> None:
        """Check the number of banks."""
        check_banks(len(self.banks))

    def transform(self, x: Tensor, step: DeviceStep) -> Tensor:
        """Return shared(x) plus the weighted sum of each row's experts: ``[T, H]``."""
        if not x.shape[0]:
            return paddle.zeros_like(x)
        routed = transform_in_banks(x, [bank.transform for bank in self.banks], step)
        return routed if self.shared is None else paddle.add(routed, self.shared.transform(x))
