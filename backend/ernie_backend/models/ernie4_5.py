"""ERNIE-4.5 dense: a pre-norm decoder with grouped-query attention and a gated MLP.

    x = embed(tokens)
    for each layer:  x += output(attention(qkv(norm(x))));  x += mlp(norm(x))
    logits = head(norm(x))

Every addition to the residual stream is followed by a norm, so the two are one op, ``add_norm``: a layer ends
with the norm of the layer after it, the last one with the final norm. Arrays are opaque here: this file must
not know what they are made of, nor how the weights were stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ernie_backend.model_config import ModelConfig
from ernie_backend.models.base import LoadSettings
from ernie_backend.weights.loader import CheckpointWeights
from ernie_backend.weights.roles import Role
from ernie_kernels.api import DeviceBatch, LayerCache, Linear, Logits, Ops, RotarySpec, Vector


@dataclass(frozen=True)
class DecoderLayer:
    """The packed weights of one layer; ``next_norm`` is the norm that follows its MLP."""

    qkv: Linear
    output: Linear
    post_attention_norm: Vector
    gate_up: Linear
    down: Linear
    next_norm: Vector


class Ernie4_5ForCausalLM:  # noqa: N801 - the name the checkpoints use
    """The dense ERNIE-4.5 decoder, its weights packed by ``ops``."""

    def __init__(
        self, config: ModelConfig, weights: CheckpointWeights, ops: Ops, settings: LoadSettings
    ) -> None:
        def linear(role: Role, layer: int = 0) -> Linear:
            return ops.pack_linear(weights.linear(role, layer), settings.activation)

        def vector(role: Role, layer: int = 0) -> Vector:
            return ops.pack_vector(weights.vector(role, layer))

        def decoder_layer(layer: int) -> DecoderLayer:
            is_last = layer == config.num_layers - 1
            return DecoderLayer(
                qkv=linear(Role.QKV, layer),
                output=linear(Role.OUTPUT, layer),
                post_attention_norm=vector(Role.POST_ATTENTION_NORM, layer),
                gate_up=linear(Role.GATE_UP, layer),
                down=linear(Role.DOWN, layer),
                next_norm=vector(Role.FINAL_NORM) if is_last else vector(Role.INPUT_NORM, layer + 1),
            )

        self.config = config
        self.cache_dtype = settings.dtype
        self._ops = ops
        self._rotary = ops.pack_rotary(RotarySpec(config.head_dim, settings.max_positions, config.rope_theta))
        self._embedding = linear(Role.EMBEDDING)
        self._head = self._embedding if config.tie_word_embeddings else linear(Role.HEAD)
        self._first_norm = vector(Role.INPUT_NORM, 0)
        self._layers = tuple(decoder_layer(layer) for layer in range(config.num_layers))

    def forward(self, batch: DeviceBatch, caches: Sequence[LayerCache]) -> Logits:
        """Compute one step; see ``Model.forward``."""
        ops, epsilon = self._ops, self.config.rms_norm_eps
        residual = ops.embed(self._embedding, batch)
        hidden = ops.norm(residual, self._first_norm, epsilon)
        for layer, cache in zip(self._layers, caches, strict=True):
            attended = ops.attention(ops.linear(hidden, layer.qkv), self._rotary, cache, batch)
            attended = ops.linear(attended, layer.output)
            residual, hidden = ops.add_norm(residual, attended, layer.post_attention_norm, epsilon)
            transformed = ops.mlp(hidden, layer.gate_up, layer.down)
            residual, hidden = ops.add_norm(residual, transformed, layer.next_norm, epsilon)
        return ops.lm_head(hidden, self._head, batch)
