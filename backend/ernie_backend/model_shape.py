"""The sizes of a model that decide how it is cut and how much memory it takes, whatever family it is of.

This module must not know config.json, devices or settings.
"""

from __future__ import annotations

from dataclasses import dataclass

from ernie_backend.model_config import ModelConfig, MoeConfig
from ernie_backend.stored_quantization import StoredQuantization


@dataclass(frozen=True)
class ExpertBank:
    """Routed experts of one width; a vision-language model has one bank for text and one for vision.

    Attributes:
        count: experts of a layer.
        width: of one expert's MLP.
        layers: how many layers have them.
    """

    count: int
    width: int
    layers: int


@dataclass(frozen=True)
class ExpertShape:
    """The experts of a model.

    Attributes:
        banks: the routed ones; not empty.
        per_token: how many of a bank see a token.
        shared_width: of the MLP that sees every token; 0 if there is none.
    """

    banks: tuple[ExpertBank, ...]
    per_token: int
    shared_width: int

    @property
    def layers(self) -> int:
        """How many layers have experts in place of a dense MLP."""
        return max(bank.layers for bank in self.banks)


@dataclass(frozen=True)
class VisionShape:
    """The vision tower, with what joins it to the decoder.

    Attributes:
        parameters: of all of it.
        width: values of a patch.
        mlp_width: values of a patch inside the MLP.
        patch_size: pixels of a patch's side.
        max_pixels: of the largest picture, unless the settings say otherwise.
    """

    parameters: int
    width: int
    mlp_width: int
    patch_size: int
    max_pixels: int


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder, and of what stands before it.

    Attributes:
        vocab_size, hidden_size, num_layers, num_heads, num_kv_heads, head_dim: as in ``ModelConfig``.
        intermediate_size: width of dense MLPs.
        is_tied: whether the embedding is the output head too.
        experts: None in a dense model.
        vision: None in a text model.
        stored_quantization: how the checkpoint's weights are quantized; it wins over the setting.
        num_parts: directories of ranks that the checkpoint was cut into; 1: it is whole.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    is_tied: bool
    experts: ExpertShape | None = None
    vision: VisionShape | None = None
    stored_quantization: StoredQuantization | None = None
    num_parts: int = 1

    @property
    def dense_layers(self) -> int:
        """Layers with a dense MLP."""
        return self.num_layers - (self.experts.layers if self.experts else 0)

    @property
    def has_cache_scales(self) -> bool:
        """Whether the checkpoint brings the scales of an int8 KV cache, which it wants then."""
        return self.stored_quantization is not None and self.stored_quantization.has_cache_scales


def text_shape(config: ModelConfig) -> ModelShape:
    """Return the sizes of a text model."""
    moe, experts = config.moe, None
    if moe is not None:
        experts = ExpertShape((expert_bank(moe),), moe.experts_per_token, moe.shared_size)
    return ModelShape(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        is_tied=config.tie_word_embeddings,
        experts=experts,
        stored_quantization=config.stored_quantization,
    )


def expert_bank(moe: MoeConfig) -> ExpertBank:
    """Return the routed experts of a text model."""
    return ExpertBank(moe.num_experts, moe.intermediate_size, moe.num_layers)
