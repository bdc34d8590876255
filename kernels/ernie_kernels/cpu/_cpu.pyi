"""The C++ module (kernels/cpu/bindings.cpp). Arrays are C-contiguous; misfits raise ValueError."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int32]

def instruction_sets(include_lowered: bool) -> list[str]: ...

class PackedLinear:
    @property
    def outputs(self) -> int: ...
    @property
    def inputs(self) -> int: ...

class LayerCache:
    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: str,
        key_scales: Floats | None,
        value_scales: Floats | None,
    ) -> None: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...

class Batch:
    def __init__(
        self,
        token_ids: Indices,
        positions: Indices,
        query_starts: Indices,
        context_lengths: Indices,
        block_tables: Indices,
        logit_rows: Indices,
        media_rows: Indices,
        vision_rows: Indices,
    ) -> None: ...
    @property
    def tokens(self) -> int: ...
    @property
    def num_logit_rows(self) -> int: ...

class Rotary:
    def __init__(self, cosines: Floats, sines: Floats, axes: Sequence[int], interleaved: bool) -> None: ...

class PatchCache:
    def __init__(self, rows: int, frame: int, num_heads: int, head_dim: int, dtype: str) -> None: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...

class ExpertBank:
    def __init__(
        self,
        router: PackedLinear,
        correction_bias: Floats,
        experts_per_token: int,
        first_expert: int,
        gate_up: list[PackedLinear],
        down: list[PackedLinear],
    ) -> None: ...

class MoeLayer:
    def __init__(
        self,
        ops: Ops,
        banks: list[ExpertBank],
        shared_gate_up: PackedLinear | None,
        shared_down: PackedLinear | None,
    ) -> None: ...

class Ops:
    def __init__(self, threads: int, instruction_set: str) -> None: ...
    @property
    def instruction_set(self) -> str: ...
    def pack_float32(self, values: Floats) -> PackedLinear: ...
    def pack_bfloat16(self, bits: NDArray[np.uint16], rounds_activations: bool) -> PackedLinear: ...
    def pack_int8(
        self, codes: NDArray[np.int8], scales: Floats, activation: str, group: int
    ) -> PackedLinear: ...
    def pack_int4(
        self, packed: NDArray[np.uint8], inputs: int, scales: Floats, activation: str, group: int
    ) -> PackedLinear: ...
    def pack_grouped_int4(
        self, packed: NDArray[np.uint8], inputs: int, scales: NDArray[np.uint16], activation: str, group: int
    ) -> PackedLinear: ...
    def pack_w4a8(
        self, packed: NDArray[np.uint8], inputs: int, scales: Floats, input_scale: float, rotation: int
    ) -> PackedLinear: ...
    def empty(self, rows: int, columns: int) -> Floats: ...
    def embed(self, table: PackedLinear, batch: Batch, result: Floats) -> None: ...
    def norm(self, x: Floats, weight: Floats, epsilon: float, result: Floats) -> None: ...
    def add_norm(
        self, x: Floats, delta: Floats, weight: Floats, epsilon: float, residual: Floats, result: Floats
    ) -> None: ...
    def linear(self, x: Floats, weight: PackedLinear, bias: Floats | None, result: Floats) -> None: ...
    def mlp(self, x: Floats, gate_up: PackedLinear, down: PackedLinear, result: Floats) -> None: ...
    def put_rows(self, x: Floats, media: Floats, batch: Batch, result: Floats) -> None: ...
    def moe(self, x: Floats, layer: MoeLayer, batch: Batch, result: Floats) -> None: ...
    def attention(
        self, qkv: Floats, rotary: Rotary, cache: LayerCache, batch: Batch, result: Floats
    ) -> None: ...
    def sample(self, logits: Floats, batch: NDArray[np.void], tokens: NDArray[np.int64]) -> None: ...
    def mask(self, logits: Floats, masks: NDArray[np.uint32], rows: NDArray[np.int64]) -> None: ...
    def lm_head(
        self,
        hidden: Floats,
        head: PackedLinear,
        batch: Batch,
        greedy: NDArray[np.int32],
        vocab_size: int,
        logits: Floats,
        tokens: NDArray[np.int64],
    ) -> None: ...
    def layer_norm(self, x: Floats, weight: Floats, bias: Floats, epsilon: float, result: Floats) -> None: ...
    def add_layer_norm(
        self,
        x: Floats,
        delta: Floats,
        weight: Floats,
        bias: Floats,
        epsilon: float,
        residual: Floats,
        result: Floats,
    ) -> None: ...
    def gelu_mlp(
        self,
        x: Floats,
        up: PackedLinear,
        up_bias: Floats,
        down: PackedLinear,
        down_bias: Floats,
        gelu: str,
        result: Floats,
    ) -> None: ...
    def append_patches(
        self, qkv: Floats, cosines: Floats, sines: Floats, cache: PatchCache, begin: int
    ) -> None: ...
    def attend_patches(self, cache: PatchCache, begin: int, result: Floats) -> None: ...
