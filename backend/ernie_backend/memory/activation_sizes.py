"""Bytes of what a step computes on one rank and does not keep: a bound, for the largest step there can be.

Every result of a layer is counted once, as if none made way for another. A device that computes all experts of
a layer at once holds a row for each token and expert it chose; one that takes them in turn, a row for each
token. The logits are float32 and counted twice, for the copy
that penalties and the like are written into; those of ``prompt_logprobs`` are not counted.
"""

from __future__ import annotations

from ernie_backend.devices.device import Device
from ernie_backend.memory.model_shape import ModelShape
from ernie_backend.memory.plan_settings import PlanSettings
from ernie_backend.model_config import ModelConfig
from ernie_backend.vision_shape import VisionShape

_LOGIT_BYTES = 2 * 4
_ROTARY_BYTES = 4


def activation_bytes(shape: ModelShape, settings: PlanSettings, device: Device) -> int:
    """Return the bytes of the largest step, and of the table of rotary angles."""
    tokens = min(settings.max_num_batched_tokens, settings.max_num_seqs * settings.max_model_len)
    rows = min(tokens, settings.max_num_seqs)
    config = shape.config
    ranks = settings.shard(config).dense.size
    layer = 4 * config.hidden_size + _attention_values(config) // ranks + _mlp_values(config, ranks, device)
    picture = _picture_values(shape.vision, settings.image_max_pixels) if shape.vision else 0
    rotary = settings.max_model_len * config.head_dim * _ROTARY_BYTES
    return (tokens * layer + picture) * device.value_bytes + rows * config.vocab_size * _LOGIT_BYTES + rotary


def _attention_values(config: ModelConfig) -> int:
    """Return queries, keys, values and what the queries found, of a token."""
    return 2 * (config.num_heads + config.num_kv_heads) * config.head_dim


def _mlp_values(config: ModelConfig, ranks: int, device: Device) -> int:
    """Return gate, up and their product of a token, in a dense layer or in one with experts."""
    has_dense_layers = len(config.expert_layers) < config.num_layers
    dense = 3 * config.intermediate_size // ranks if has_dense_layers else 0
    if config.moe is None:
        return dense
    widest = max(bank.intermediate_size for bank in config.expert_banks)
    at_once = config.moe.experts_per_token if device.takes_experts_at_once else 1
    routed = at_once * (3 * widest // ranks + 2 * config.hidden_size)
    return max(dense, routed + 3 * config.moe.shared_size // ranks)


def _picture_values(vision: VisionShape, image_max_pixels: int | None) -> int:
    """Return what the tower holds of the largest picture: the stream, a norm, q, k, v, the result; the MLP."""
    patches = (image_max_pixels or vision.max_pixels) // vision.patch_size**2
    return patches * (6 * vision.width + vision.mlp_width)
