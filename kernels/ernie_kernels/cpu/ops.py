"""``CpuOps``: allocates results and calls the C++ module ``_cpu``, which checks every size and index."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Batch, CacheSpec, ExpertBank, MlpWeights, RotarySpec
from ernie_kernels.batch_checks import check_batch
from ernie_kernels.cache_format import check_cache_spec
from ernie_kernels.communicator import Communicator, SingleRank
from ernie_kernels.cpu import _cpu
from ernie_kernels.cpu.patch_ops import CpuPatchOps
from ernie_kernels.formats import (
    ActivationType,
    Bfloat16Weight,
    Float32Weight,
    GroupedInt4Weight,
    Int4Weight,
    LinearWeight,
    W4A8Weight,
    activation_group,
    check_activation,
    float32_to_bfloat16,
)
from ernie_kernels.rotary import rotary_table
from ernie_kernels.routing import check_experts, check_router
from ernie_kernels.sampling import (
    HeadOutput,
    SamplingBatch,
    TokenChoices,
    TokenMasks,
    Tokens,
    head_output,
)

ISA_VARIABLE = "ERNIE_CPU_ISA"

Floats = NDArray[np.float32]
_NO_ROWS = np.zeros(0, np.int32)


def instruction_sets(include_lowered: bool = False) -> tuple[str, ...]:
    """Return the instruction sets that this processor runs, best last.

    Args:
        include_lowered: also the variants that exist only for tests (``avx512-lowered``).
    """
    return tuple(_cpu.instruction_sets(include_lowered))


class CpuBatch(_cpu.Batch):
    """A step in C++, with the tokens that are to be chosen."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(
            batch.token_ids,
            np.ascontiguousarray(batch.positions if batch.positions.ndim == 2 else batch.positions[None]),
            batch.query_starts,
            batch.context_lengths,
            np.ascontiguousarray(batch.block_tables),
            batch.logit_rows,
            _NO_ROWS if batch.media_rows is None else batch.media_rows,
            _NO_ROWS if batch.vision_rows is None else batch.vision_rows,
        )
        self.choices = batch.choices


class CpuOps(CpuPatchOps):
    """``ernie_kernels.api.Ops`` in C++. A row's result is the same bits in any batch, chunk and thread count.

    Args:
        threads: threads of the pool, the caller's included.
        instruction_set: one of ``instruction_sets()``; default: ``$ERNIE_CPU_ISA``, else the best.
        communicator: of this rank, if several share the model.

    Raises:
        ValueError: ``threads`` is not positive, or the processor does not run the instruction set.
    """

    def __init__(
        self, threads: int, instruction_set: str | None = None, communicator: Communicator[Floats] | None = None
    ) -> None:
        self._communicator: Communicator[Floats] = communicator or SingleRank()
        self._ops = _cpu.Ops(threads, instruction_set or os.environ.get(ISA_VARIABLE, ""))

    @property
    def instruction_set(self) -> str:
        """The instruction set in use."""
        return self._ops.instruction_set

    def pack_linear(self, weight: LinearWeight, activation: ActivationType) -> _cpu.PackedLinear:
        """Copy an ``[N, K]`` weight into panels, for inputs that ``activation`` rounds.

        Raises:
            ValueError: ``activation`` does not fit the weight, the arrays have the wrong type or shape, or an
                int8 code is -128.
        """
        check_activation(weight, activation)
        if isinstance(weight, Float32Weight):
            return self._ops.pack_float32(np.ascontiguousarray(weight.values))
        if isinstance(weight, Bfloat16Weight):
            bits = np.ascontiguousarray(weight.bits)
            return self._ops.pack_bfloat16(bits, activation is ActivationType.BFLOAT16)
        if isinstance(weight, W4A8Weight):
            codes = weight.weight
            return self._ops.pack_w4a8(
                np.ascontiguousarray(codes.packed),
                codes.inputs,
                np.ascontiguousarray(codes.scales),
                weight.input_scale,
                weight.rotation,
            )
        scales, group = np.ascontiguousarray(weight.scales), activation_group(activation)
        if isinstance(weight, GroupedInt4Weight):
            packed, bits = np.ascontiguousarray(weight.packed), float32_to_bfloat16(scales)
            return self._ops.pack_grouped_int4(packed, weight.inputs, bits, activation.value, group)
        if isinstance(weight, Int4Weight):
            packed = np.ascontiguousarray(weight.packed)
            return self._ops.pack_int4(packed, weight.inputs, scales, activation.value, group)
        if weight.codes.size and weight.codes.min() == -128:
            raise ValueError("int8 weight has the code -128, expected -127 to 127")
        return self._ops.pack_int8(np.ascontiguousarray(weight.codes), scales, activation.value, group)

    def pack_moe(
        self, banks: Sequence[ExpertBank], shared: MlpWeights | None, activation: ActivationType
    ) -> _cpu.MoeLayer:
        """Copy a layer of experts into panels, one weight at a time.

        Raises:
            ValueError: as for ``pack_linear``, or the sizes do not fit each other.
        """
        return _cpu.MoeLayer(
            self._ops,
            [self._pack_bank(bank, activation) for bank in banks],
            None if shared is None else self.pack_linear(shared.gate_up, activation),
            None if shared is None else self.pack_linear(shared.down, activation),
        )

    def _pack_bank(self, bank: ExpertBank, activation: ActivationType) -> _cpu.ExpertBank:
        local_experts = check_router(bank.router, bank.local_experts)
        gate_up, down = [], []
        for expert in bank.experts:
            gate_up.append(self.pack_linear(expert.gate_up, activation))
            down.append(self.pack_linear(expert.down, activation))
        check_experts(local_experts, len(down))
        return _cpu.ExpertBank(
            self.pack_linear(Float32Weight(bank.router.gate), ActivationType.FLOAT32),
            np.ascontiguousarray(bank.router.correction_bias),
            bank.router.experts_per_token,
            local_experts.start,
            gate_up,
            down,
        )

    def pack_vector(self, values: Floats) -> Floats:
        """Return the vector as contiguous float32."""
        return np.ascontiguousarray(values, np.float32)

    def pack_rotary(self, spec: RotarySpec) -> _cpu.Rotary:
        """Make the table of cosines and sines."""
        table = rotary_table(spec)
        return _cpu.Rotary(table.cosines, table.sines, spec.axes, spec.interleaved)

    def allocate_cache(self, spec: CacheSpec) -> _cpu.LayerCache:
        """Allocate zeroed keys and values.

        Raises:
            ValueError: unknown dtype, a size is not positive, or the scales do not fit.
        """
        check_cache_spec(spec)
        scales = spec.scales
        return _cpu.LayerCache(
            spec.num_blocks,
            spec.block_size,
            spec.num_kv_heads,
            spec.head_dim,
            spec.dtype,
            None if scales is None else np.ascontiguousarray(scales.keys),
            None if scales is None else np.ascontiguousarray(scales.values),
        )

    def upload(self, batch: Batch) -> CpuBatch:
        """Check the batch and copy its arrays; the first layer adds the plan of attention for all of them."""
        check_batch(batch)
        return CpuBatch(batch)

    def embed(self, table: _cpu.PackedLinear, batch: _cpu.Batch) -> Floats:
        """Return the table's rows of the token ids."""
        result = self._empty(batch.tokens, table.inputs)
        self._ops.embed(table, batch, result)
        return result

    def norm(self, x: Floats, weight: Floats, epsilon: float) -> Floats:
        """RMSNorm."""
        result = self._empty(len(x), x.shape[-1])
        self._ops.norm(x, weight, epsilon, result)
        return result

    def add_norm(self, x: Floats, delta: Floats, weight: Floats, epsilon: float) -> tuple[Floats, Floats]:
        """Return x + delta and its RMSNorm."""
        residual, result = self._empty(len(x), x.shape[-1]), self._empty(len(x), x.shape[-1])
        self._ops.add_norm(x, delta, weight, epsilon, residual, result)
        return residual, result

    def linear(self, x: Floats, weight: _cpu.PackedLinear, bias: Floats | None = None) -> Floats:
        """Return x @ W.T + bias."""
        result = self._empty(len(x), weight.outputs)
        self._ops.linear(x, weight, bias, result)
        return result

    def mlp(self, x: Floats, gate_up: _cpu.PackedLinear, down: _cpu.PackedLinear) -> Floats:
        """Return down(silu(gate(x)) * up(x))."""
        result = self._empty(len(x), down.outputs)
        self._ops.mlp(x, gate_up, down, result)
        return result

    def put_rows(self, x: Floats, media: Floats, batch: _cpu.Batch) -> Floats:
        """Return x with the rows of media."""
        result = self._empty(len(x), x.shape[-1])
        self._ops.put_rows(x, media, batch, result)
        return result

    def moe(self, x: Floats, layer: _cpu.MoeLayer, batch: _cpu.Batch) -> Floats:
        """Return shared(x) plus the weighted sum of each row's experts."""
        result = self._empty(len(x), x.shape[-1])
        self._ops.moe(x, layer, batch, result)
        return result

    def attention(self, qkv: Floats, rotary: _cpu.Rotary, cache: _cpu.LayerCache, batch: _cpu.Batch) -> Floats:
        """Rotate, append, attend."""
        width = max(0, qkv.shape[1] - 2 * cache.num_kv_heads * cache.head_dim)
        result = self._empty(len(qkv), width)
        self._ops.attention(qkv, rotary, cache, batch, result)
        return result

    def all_reduce(self, x: Floats) -> Floats:
        """Return the sum of the ranks' ``x``."""
        return self._communicator.all_reduce(x)

    def lm_head(self, hidden: Floats, head: _cpu.PackedLinear, batch: CpuBatch) -> HeadOutput:
        """Compute the logits, choose tokens; a rank alone stores no logits of greedy rows."""
        choices = batch.choices
        if choices is None or self._communicator.size > 1:
            logits = self._logits(hidden, head, batch, _NO_ROWS, 0)[0]
            return head_output(self._communicator.all_gather(logits), choices, self.sample_tokens)
        is_greedy = choices.sampling["temperature"] == 0
        greedy = choices.places[is_greedy]
        logits, greedy_tokens = self._logits(hidden, head, batch, greedy, choices.vocab_size)
        if len(greedy) == len(is_greedy):
            return HeadOutput(logits, greedy_tokens)
        places = choices.places[~is_greedy]
        others = TokenChoices(
            places - np.searchsorted(greedy, places).astype(np.int32),
            choices.sampling[~is_greedy],
            choices.vocab_size,
        )
        output = head_output(logits, others, self.sample_tokens)
        tokens = np.empty(len(is_greedy), np.int64)
        tokens[is_greedy], tokens[~is_greedy] = greedy_tokens, output.tokens
        return HeadOutput(output.logits, tokens)

    def _logits(
        self,
        hidden: Floats,
        head: _cpu.PackedLinear,
        batch: CpuBatch,
        greedy: NDArray[np.int32],
        vocab_size: int,
    ) -> tuple[Floats, Tokens]:
        """Return the logits of all rows but the greedy ones, and the tokens of these."""
        logits = np.empty((batch.num_logit_rows - len(greedy), head.outputs), np.float32)
        tokens = np.empty(len(greedy), np.int64)
        self._ops.lm_head(hidden, head, batch, greedy, min(vocab_size, head.outputs), logits, tokens)
        return logits, tokens

    def sample_tokens(self, logits: Floats, batch: SamplingBatch) -> Tokens:
        """Return a token for each row of logits ``[R, V]``, see ``ernie_kernels.sampling``.

        Raises:
            ValueError: a temperature or top_p is not positive, or R differs.
        """
        tokens = np.empty(len(logits), np.int64)
        self._ops.sample(np.ascontiguousarray(logits), batch, tokens)
        return tokens

    def apply_token_masks(self, logits: Floats, masks: TokenMasks, rows: NDArray[np.int64]) -> None:
        """Exclude tokens from rows of logits ``[R, V]``, see ``ernie_kernels.sampling``.

        Raises:
            ValueError: the arrays are not contiguous, or do not fit each other.
        """
        self._ops.mask(logits, masks, rows)
