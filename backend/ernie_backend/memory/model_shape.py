"""The sizes of a model that decide how much memory it takes, whatever family it is of.

This module must not know config.json, devices or settings.
"""

from __future__ import annotations

from dataclasses import dataclass


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
        max_positions: tokens of the longest context.
        is_tied: whether the embedding is the output head too.
        experts: None in a dense model.
        vision: None in a text model.
        quantization: format that the checkpoint's weights already have; it wins over the setting.
        has_cache_scales: the checkpoint brings the scales of an int8 KV cache, which it wants then.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    is_tied: bool
    experts: ExpertShape | None = None
    vision: VisionShape | None = None
    quantization: str | None = None
    has_cache_scales: bool = False

    @property
    def dense_layers(self) -> int:
        """Layers with a dense MLP."""
        return self.num_layers - (self.experts.layers if self.experts else 0)
