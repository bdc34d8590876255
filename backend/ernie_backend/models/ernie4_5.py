"""ERNIE-4.5: a pre-norm decoder with grouped-query attention, and a gated MLP or experts in each layer.

    x = embed(tokens), or what an encoder made of media
    for each layer:  x += output(attention(qkv(norm(x))));  x += mlp(norm(x)), or moe(norm(x))
    logits = head(norm(x)), or the tokens chosen from them

Every addition to the residual stream is followed by a norm, so the two are one op, ``add_norm``: a layer ends
with the norm of the layer after it, the last one with the final norm. Arrays are opaque here: only ops look
inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.models.base import VisionTower
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_backend.weights.base import ModelWeights
from ernie_backend.weights.roles import Role
from ernie_kernels.api import (
    Array,
    DeviceBatch,
    LayerCache,
    Linear,
    Moe,
    Ops,
    Vector,
)
from ernie_kernels.formats import ActivationType
from ernie_kernels.sampling import HeadOutput


@dataclass(frozen=True)
class DenseMlp:
    """The packed weights of a gated MLP."""

    gate_up: Linear
    down: Linear


@dataclass(frozen=True)
class Experts:
    """The packed weights of a layer of experts."""

    moe: Moe


@dataclass(frozen=True)
class DecoderLayer:
    """The packed weights of one layer; ``next_norm`` is the norm that follows its MLP or experts."""

    qkv: Linear
    output: Linear
    post_attention_norm: Vector
    mlp: DenseMlp | Experts
    next_norm: Vector


class Ernie4_5ForCausalLM:  # noqa: N801 - the name the checkpoints use
    """The ERNIE-4.5 decoder, dense or with experts, its weights packed by ``ops``."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, ops: Ops, settings: LoadSettings) -> None:
        packer = _Packer(config, weights, ops, settings.activation_dtype)
        self.config = config
        self.cache_dtype = settings.dtype
        self.cache_scales = tuple(weights.cache_scales(layer) for layer in range(config.num_layers))
        self.vision: VisionTower | None = None
        self._ops = ops
        self._has_partial_sums = weights.has_partial_sums
        self._rotary = ops.pack_rotary(config.rotary(settings.max_model_len))
        self._embedding = packer.linear(Role.EMBEDDING)
        self._head = self._embedding if config.tie_word_embeddings else packer.linear(Role.HEAD)
        self._first_norm = packer.vector(Role.INPUT_NORM, 0)
        self._layers = tuple(packer.decoder_layer(layer) for layer in range(config.num_layers))

    def forward(
        self, batch: DeviceBatch, caches: Sequence[LayerCache], media: Array | None = None
    ) -> HeadOutput:
        """Compute one step; see ``Model.forward``."""
        ops, epsilon = self._ops, self.config.rms_norm_eps
        residual = ops.all_reduce(ops.embed(self._embedding, batch))
        if media is not None:
            residual = ops.put_rows(residual, media, batch)
        hidden = ops.norm(residual, self._first_norm, epsilon)
        for layer, cache in zip(self._layers, caches, strict=True):
            attended = ops.attention(ops.linear(hidden, layer.qkv), self._rotary, cache, batch)
            attended = self._completed(ops.linear(attended, layer.output))
            residual, hidden = ops.add_norm(residual, attended, layer.post_attention_norm, epsilon)
            transformed = self._transform(hidden, layer.mlp, batch)
            residual, hidden = ops.add_norm(residual, transformed, layer.next_norm, epsilon)
        return ops.lm_head(hidden, self._head, batch)

    def _transform(self, hidden: Array, mlp: DenseMlp | Experts, batch: DeviceBatch) -> Array:
        if isinstance(mlp, Experts):
            return self._ops.all_reduce(self._ops.moe(hidden, mlp.moe, batch))
        return self._completed(self._ops.mlp(hidden, mlp.gate_up, mlp.down))

    def _completed(self, x: Array) -> Array:
        """Return what the ranks' ``x`` make together, unless each has computed all of it."""
        return self._ops.all_reduce(x) if self._has_partial_sums else x


@dataclass(frozen=True)
class _Packer:
    """Packs weights one at a time."""

    config: ModelConfig
    weights: ModelWeights
    ops: Ops
    activation: ActivationType

    def linear(self, role: Role, layer: int = 0) -> Linear:
        return self.ops.pack_linear(
            self.weights.linear(role, layer), self.weights.activation_of(role, self.activation)
        )

    def vector(self, role: Role, layer: int = 0) -> Vector:
        return self.ops.pack_vector(self.weights.vector(role, layer))

    def decoder_layer(self, layer: int) -> DecoderLayer:
        is_last = layer == self.config.num_layers - 1
        return DecoderLayer(
            qkv=self.linear(Role.QKV, layer),
            output=self.linear(Role.OUTPUT, layer),
            post_attention_norm=self.vector(Role.POST_ATTENTION_NORM, layer),
            mlp=self._mlp(layer),
            next_norm=self.vector(Role.FINAL_NORM) if is_last else self.vector(Role.INPUT_NORM, layer + 1),
        )

    def _mlp(self, layer: int) -> DenseMlp | Experts:
        if not self.config.has_experts(layer):
            return DenseMlp(self.linear(Role.GATE_UP, layer), self.linear(Role.DOWN, layer))
        moe = self.weights.moe(layer)
        return Experts(self.ops.pack_moe(moe.banks, moe.shared, self.activation))
