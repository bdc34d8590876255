"""The ops interface: all that a model file may call.

Arrays are opaque to their callers: no operator, index or shape arithmetic. An op is as coarse as the coarsest
that any backend fuses. Ops return new arrays, except that ``attention`` appends to the KV cache it is given;
buffers and their lifetime belong to the backend. A row of a result does not depend on which other rows are in
the batch, nor on how a prompt was cut into chunks: bit for bit on ``cpu``, within the tolerance of the goldens
on ``reference`` and ``paddle``, whose matrix products come from a library.

Where several ranks share a model (``ernie_kernels.communicator``), each calls the same ops over its part of the
weights: rows of what comes first in a block, columns of what comes second, so that ``all_reduce`` completes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.formats import ActivationType, LinearWeight
from ernie_kernels.patches import PatchCacheSpec, PatchGrid
from ernie_kernels.routing import RouterWeights
from ernie_kernels.sampling import HeadOutput, TokenChoices

Array = Any
"""A float array ``[rows, width]`` on the backend's device."""
Linear = Any
"""A packed ``[N, K]`` matrix."""
Vector = Any
"""A packed ``[K]`` vector, e.g. the weight of a norm."""
Moe = Any
"""A packed layer of experts: its router, its routed experts, its shared ones."""
Rotary = Any
"""A packed table of rotary embeddings."""
LayerCache = Any
"""The paged KV cache of one layer."""
PatchCache = Any
"""Queries, keys and values of one layer's patches."""
DeviceBatch = Any
"""A ``Batch`` whose index arrays are on the device too."""

Gelu = Literal["erf", "tanh", "quick"]
"""x * normal_cdf(x); its approximation by tanh; x * sigmoid(1.702 * x)."""

ELSEWHERE = -1
"""A token id whose row of the embedding another rank has."""

CACHE_DTYPES = ("float32", "bfloat16", "int8")
"""How a KV cache may store keys and values."""


class UnsupportedError(ValueError):
    """A backend cannot do what the settings or the model need; the message names what it can do."""


@dataclass(frozen=True)
class Batch:
    """What one engine step computes: T tokens of S sequences, laid end to end.

    Attributes:
        token_ids: int32 ``[T]``.
        positions: int32 ``[T]``, position of each token in its sequence; ``[A, T]`` for a rotary embedding of A
            axes, for which ``[T]`` means the same position on every axis.
        query_starts: int32 ``[S + 1]``; rows ``query_starts[s]:query_starts[s + 1]`` belong to sequence s.
        context_lengths: int32 ``[S]``, tokens of each sequence that were in the KV cache before this step.
        block_tables: int32 ``[S, B]``, the cache block of every ``block_size`` tokens, padded with -1.
        logit_rows: int32 ``[R]``, the rows whose logits are computed.
        media_rows: int32 ``[M]``, rising, the rows whose embeddings come from an encoder; None: no rows.
        vision_rows: int32 ``[W]``, rising, the rows that go to the vision bank of layers with two banks of
            experts; None: no rows.
        choices: for which of the ``logit_rows`` the backend chooses the token; None: for no row.
    """

    token_ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    query_starts: NDArray[np.int32]
    context_lengths: NDArray[np.int32]
    block_tables: NDArray[np.int32]
    logit_rows: NDArray[np.int32]
    media_rows: NDArray[np.int32] | None = None
    vision_rows: NDArray[np.int32] | None = None
    choices: TokenChoices | None = None


@dataclass(frozen=True, eq=False)
class CacheScales:
    """Static scales of an int8 cache, one for each channel: ``keys``, ``values`` float32 [kv_heads, head_dim].

    A number is code * scale; scales are finite and not negative.
    """

    keys: NDArray[np.float32]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class CacheSpec:
    """The KV cache of one layer: ``num_blocks`` blocks of ``block_size`` tokens.

    ``dtype`` is one of ``CACHE_DTYPES``: how keys (after rotation) and values are stored; ``int8`` keeps a
    scale for every token and kv head, unless ``scales`` says them once for all
    (``ernie_kernels.cache_format``).
    """

    num_blocks: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    scales: CacheScales | None = None

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block: keys and values of ``block_size`` tokens in one layer."""
        head = {
            "float32": 4 * self.head_dim,
            "bfloat16": 2 * self.head_dim,
            "int8": self.head_dim + (4 if self.scales is None else 0),  # codes, and a float32 scale if dynamic
        }[self.dtype]
        return 2 * self.block_size * self.num_kv_heads * head


@dataclass(frozen=True)
class RotarySpec:
    """Rotary embedding of ``head_dim`` values for positions 0 to ``max_positions`` - 1.

    ``interleaved``: pairs are (2i, 2i + 1), the ERNIE-4.5 way; otherwise (i, i + head_dim / 2). Pair i turns by
    position / compression_ratio * theta ** (-2i / head_dim): computed in float64, stored as float32.

    ``axes``: the axis of each of the head_dim / 2 pairs, whose position on that axis it turns by; empty:
    positions have one axis.
    """

    head_dim: int
    max_positions: int
    theta: float
    interleaved: bool = True
    compression_ratio: float = 1.0
    axes: tuple[int, ...] = ()

    @property
    def num_axes(self) -> int:
        """Axes that positions have."""
        return max(self.axes, default=0) + 1


@dataclass(frozen=True)
class MlpWeights:
    """A gated MLP: ``gate_up`` ``[2I, H]``, all gate rows first; ``down`` ``[H, I]``."""

    gate_up: LinearWeight
    down: LinearWeight


@dataclass(frozen=True)
class ExpertBank:
    """A router and the experts that it chooses from.

    Attributes:
        router: of all experts of the bank.
        experts: those that this rank has, in the order of the router's rows; taken one at a time.
        local_experts: the router's rows of these; None: all.
    """

    router: RouterWeights
    experts: Iterable[MlpWeights]
    local_experts: range | None = None


class Ops(Protocol):
    """The operations of one backend. ``x`` arrays are ``[T, width]``; all arithmetic is at least float32."""

    def pack_linear(self, weight: LinearWeight, activation: ActivationType) -> Linear:
        """Pack an ``[N, K]`` weight for ``linear``, ``mlp``, ``embed`` and ``lm_head``."""
        ...

    def pack_moe(
        self, banks: Sequence[ExpertBank], shared: MlpWeights | None, activation: ActivationType
    ) -> Moe:
        """Pack a layer of experts: one bank for all rows, or that of text and that of vision.

        The experts of one bank have the same width; those of two may differ. The shared experts see all rows.

        Raises:
            ValueError: the sizes do not fit each other.
        """
        ...

    def pack_vector(self, values: NDArray[np.float32]) -> Vector:
        """Pack a ``[K]`` vector."""
        ...

    def pack_rotary(self, spec: RotarySpec) -> Rotary:
        """Make the table of a rotary embedding."""
        ...

    def allocate_cache(self, spec: CacheSpec) -> LayerCache:
        """Allocate the KV cache of one layer."""
        ...

    def upload(self, batch: Batch) -> DeviceBatch:
        """Bring a step's index arrays to the device; the host's lengths stay available.

        A step that attends comes after ``allocate_cache``, whose blocks decide what the device is given.
        """
        ...

    def embed(self, table: Linear, batch: DeviceBatch) -> Array:
        """Return the rows of ``table [V, H]`` that the token ids name, zeros for ``ELSEWHERE``: ``[T, H]``."""
        ...

    def norm(self, x: Array, weight: Vector, epsilon: float) -> Array:
        """RMSNorm: x / sqrt(mean(x^2) + epsilon) * weight."""
        ...

    def add_norm(self, x: Array, delta: Array, weight: Vector, epsilon: float) -> tuple[Array, Array]:
        """Return x + delta (the residual stream) and its RMSNorm."""
        ...

    def linear(self, x: Array, weight: Linear, bias: Vector | None = None) -> Array:
        """Return x @ W.T + bias: ``[T, K]`` to ``[T, N]``."""
        ...

    def mlp(self, x: Array, gate_up: Linear, down: Linear) -> Array:
        """Return down(silu(gate(x)) * up(x)); ``gate_up`` is ``[2I, H]``, all gate rows first."""
        ...

    def put_rows(self, x: Array, media: Array, batch: DeviceBatch) -> Array:
        """Return x ``[T, H]`` with its rows ``batch.media_rows`` replaced by those of ``media`` ``[M, H]``."""
        ...

    def moe(self, x: Array, layer: Moe, batch: DeviceBatch) -> Array:
        """Return shared(x) plus the weighted sum of the experts that a router chooses for each row.

        Of two banks, rows ``batch.vision_rows`` see the second, all others the first. The choice is that of
        ``ernie_kernels.routing``. An expert's weights are read once however many rows
        chose it, those of an expert that none chose not at all; every row reaches all of its experts.
        """
        ...

    def attention(self, qkv: Array, rotary: Rotary, cache: LayerCache, batch: DeviceBatch) -> Array:
        """Rotate queries and keys, append keys and values to the cache, attend causally.

        ``qkv`` is ``[T, (heads + 2 * kv_heads) * head_dim]``: all queries, all keys, all values. Query head j
        reads kv head j // (heads / kv_heads); scores are scaled by head_dim ** -0.5. Returns
        ``[T, heads * head_dim]``.
        """
        ...

    def all_reduce(self, x: Array) -> Array:
        """Return the sum of the ranks' ``x``, the same bits on each; alone ``x``. ``x`` may be overwritten."""
        ...

    def lm_head(self, hidden: Array, head: Linear, batch: DeviceBatch) -> HeadOutput:
        """Compute the logits of the batch's ``logit_rows``, and choose the tokens of its ``choices``.

        The tokens are those of ``ernie_kernels.sampling.choose_tokens`` with the logits ``[R, V]``, V of all
        ranks: the same where the logits have the same bits, and with the same distribution elsewhere. Logits
        of the rows that it chooses for need not leave the device, or be stored at all.
        """
        ...

    def upload_rows(self, values: NDArray[np.float32]) -> Array:
        """Bring a float32 matrix ``[rows, width]`` to the device, e.g. the pixels of patches."""
        ...

    def rows(self, x: Array, begin: int, end: int) -> Array:
        """Return rows ``begin`` to ``end`` - 1; not a copy where the backend can do without one."""
        ...

    def concatenate(self, parts: Sequence[Array]) -> Array:
        """Return the rows of all parts, one part after another."""
        ...

    def merge_rows(self, x: Array, indices: NDArray[np.int32]) -> Array:
        """Return rows made of several: of ``indices [M, n]``, row m is the rows ``indices[m]`` side by side."""
        ...

    def layer_norm(self, x: Array, weight: Vector, bias: Vector, epsilon: float) -> Array:
        """LayerNorm: (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias."""
        ...

    def add_layer_norm(
        self, x: Array, delta: Array, weight: Vector, bias: Vector, epsilon: float
    ) -> tuple[Array, Array]:
        """Return x + delta (the residual stream) and its LayerNorm."""
        ...

    def gelu_mlp(
        self, x: Array, up: Linear, up_bias: Vector, down: Linear, down_bias: Vector, gelu: Gelu
    ) -> Array:
        """Return down(gelu(up(x) + up_bias)) + down_bias, with the chosen gelu."""
        ...

    def add_positions(self, x: Array, table: Vector, grid: PatchGrid, begin: int) -> Array:
        """Return patches plus their learned positions; ``x`` are patches ``begin`` and on, frame after frame.

        ``table`` is ``[side * side * width]``; see ``ernie_kernels.patches.position_samples``.
        """
        ...

    def pack_axial_rotary(self, grid: PatchGrid, head_dim: int, theta: float) -> Rotary:
        """Make the table of the rotary embedding of a frame's patches by row and column."""
        ...

    def allocate_patches(self, spec: PatchCacheSpec) -> PatchCache:
        """Allocate the queries, keys and values of a layer's patches, which the next layer may overwrite."""
        ...

    def append_patches(self, qkv: Array, rotary: Rotary, cache: PatchCache, begin: int) -> None:
        """Rotate queries and keys of patches ``begin`` and on, and put them with their values into ``cache``.

        ``qkv`` is ``[R, 3 * heads * head_dim]``: all queries, all keys, all values; patches are appended in
        their order, from 0 on.
        """
        ...

    def attend_patches(self, cache: PatchCache, begin: int, end: int) -> Array:
        """Return the attention of patches ``begin`` to ``end`` - 1, each to all patches of its frame.

        All patches of the frames were appended. Scores are scaled by head_dim ** -0.5. Returns
        ``[end - begin, heads * head_dim]``.
        """
        ...
