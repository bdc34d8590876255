"""Bytes that one rank needs for a model's weights, and for the intermediate results of a step.

Weights are those of the loader's recipes, cut and formatted as the loader does. The first rank is planned,
which has at least what the others have. A vision tower is whole on each rank, in bfloat16 if the rest is
quantized.

Activations are a bound for the largest step: every result of a layer is counted once, as if none were freed for
another. A device that computes all experts of a layer at once holds a row for each token and each expert it
chose; one that takes them in turn, a row for each token. The logits are float32 and counted twice, for the copy
that logits processors write to; those of ``prompt_logprobs`` are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from ernie_backend.config.architectures import ARCHITECTURES
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.vision_shape import MERGED, VisionShape
from ernie_backend.devices.device import Device
from ernie_backend.planning.model_shape import ModelShape
from ernie_backend.settings.engine_settings import EngineSettings
from ernie_backend.weights.precision import Precision, WeightFormat
from ernie_backend.weights.recipes import weight_groups
from ernie_backend.weights.roles import ROUTED, Role
from ernie_backend.weights.sharding import experts_of, kv_heads_of, part_of
from ernie_kernels.attention_blocks import scratch_bytes
from ernie_kernels.formats import WEIGHT_GROUP
from ernie_kernels.rotary import sequence_tables_shape

_NORMS, _MLPS = "routers and norms", "MLPs"
_GROUPS: Mapping[Role, str] = {
    Role.EMBEDDING: "embeddings",
    Role.HEAD: "embeddings",
    Role.QKV: "attention",
    Role.OUTPUT: "attention",
    Role.GATE_UP: _MLPS,
    Role.DOWN: _MLPS,
    Role.SHARED_GATE_UP: _MLPS,
    Role.SHARED_DOWN: _MLPS,
    Role.EXPERT_GATE_UP: "routed experts",
    Role.EXPERT_DOWN: "routed experts",
    Role.ROUTER: _NORMS,
    Role.VISION_ROUTER: _NORMS,
    Role.ROUTER_BIAS: _NORMS,
    Role.INPUT_NORM: _NORMS,
    Role.POST_ATTENTION_NORM: _NORMS,
    Role.FINAL_NORM: _NORMS,
    **{role: "vision tower" for role in Role if role.is_tower},
}
"""What a plan shows, in its order."""
_LOGIT_BYTES = 2 * 4
_ROTARY_BYTES = 4
_PIECE_PATCHES = 1024


def weight_bytes(shape: ModelShape, settings: EngineSettings, device: Device) -> dict[str, int]:
    """Return the bytes of one rank's weights by group, scales included; the sum is all of them."""
    loading = settings.loading
    precision = Precision(
        loading.dtype, loading.quantization, shape.config.tie_word_embeddings, device.has_int8_head
    )
    bytes_of: dict[str, int] = {}
    for role, part, count in _parts(shape, settings):
        size = count * _bytes(_format(role, precision), part, device.int4_bits)
        bytes_of[_GROUPS[role]] = bytes_of.get(_GROUPS[role], 0) + size
    order = list(dict.fromkeys(_GROUPS.values()))
    return dict(sorted(bytes_of.items(), key=lambda item: order.index(item[0])))


def cast_bytes(shape: ModelShape, settings: EngineSettings, device: Device) -> int:
    """Return the bytes of an expert's largest W4A8 matrix in float32, if a product needs it so."""
    if settings.loading.quantization != "w4a8" or not device.casts_w4a8:
        return 0
    return 4 * max(
        (part[0] * part[1] for role, part, _ in _parts(shape, settings) if role in ROUTED), default=0
    )


def attention_bytes(shape: ModelShape, settings: EngineSettings, device: Device) -> int:
    """Return what attention takes beside activations.

    Scores and contexts of a rank, where attention is composed of products; rotary tables of sequences, where
    a model that sees has them. FastDeploy's versions differ in which it is for PaddleOCR-VL: the larger counts.
    """
    config, shard = shape.config, settings.parallel.shard(shape.config)
    rotary = config.rotary(settings.loading.max_model_len)
    has_tables = device.has_sequence_rotary and bool(rotary.axes)
    tables = 4 * prod(sequence_tables_shape(rotary, settings.scheduler.max_num_seqs)) if has_tables else 0
    if not (device.attends_in_blocks or (has_tables and not rotary.interleaved)):
        return tables
    kv_heads = len(kv_heads_of(config, shard))
    return max(tables, scratch_bytes(config.num_heads // shard.dense.size, kv_heads, config.head_dim))


def _parts(shape: ModelShape, settings: EngineSettings) -> Iterator[tuple[Role, tuple[int, int], int]]:
    """Yield what the first rank has: equal ``[outputs, inputs]`` parts of a role's weights, and how many."""
    config, shard = shape.config, settings.parallel.shard(shape.config)
    layout = ARCHITECTURES[config.architecture].layouts[0]  # in every one they are as large
    for group in weight_groups(config, layout):
        for role, recipe in group.recipes.items():
            count = group.num_layers * len(experts_of(role, len(group.experts), shard))
            outputs, inputs = recipe.shape if len(recipe.shape) == 2 else (1, *recipe.shape)
            yield role, part_of(role, (outputs, inputs), config, shard).shape, count


def _format(role: Role, precision: Precision) -> WeightFormat:
    return WeightFormat.FLOAT32 if role.is_vector else precision.format_of(role)


def _bytes(fmt: WeightFormat, part: tuple[int, int], int4_bits: int) -> int:
    """Return the bytes of one part with its scales: float32, one an output, or bfloat16, one a group."""
    outputs, inputs = part
    if fmt is WeightFormat.FLOAT32:
        return 4 * outputs * inputs
    if fmt is WeightFormat.BFLOAT16:
        return 2 * outputs * inputs
    bits = 8 if fmt is WeightFormat.INT8 else int4_bits
    scales = 2 * -(-inputs // WEIGHT_GROUP) if fmt is WeightFormat.GROUPED_INT4 else 4
    return outputs * (-(-inputs * bits // 8) + scales)


def activation_bytes(shape: ModelShape, settings: EngineSettings, device: Device) -> int:
    """Return the bytes of the largest step, and of the table of rotary angles."""
    limits, max_model_len = settings.scheduler, settings.loading.max_model_len
    tokens = min(limits.max_num_batched_tokens, limits.max_num_seqs * max_model_len)
    rows = min(tokens, limits.max_num_seqs)
    config = shape.config
    ranks = settings.parallel.shard(config).dense.size
    layer = 4 * config.hidden_size + _attention_values(config) // ranks + _mlp_values(config, ranks, device)
    picture = _picture_values(shape.vision, _largest_picture(shape.vision, settings)) if shape.vision else 0
    rotary = max_model_len * config.head_dim * _ROTARY_BYTES
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
    apart = 2 * config.hidden_size if config.vision_moe else 0  # inputs and results of a bank's own rows
    return max(dense, routed + apart + 3 * config.moe.shared_size // ranks)


def media_bytes(shape: ModelShape, settings: EngineSettings, device: Device) -> int:
    """Return the bytes of encoded media, and of prepared ones where the host's memory is the device's."""
    if shape.vision is None:
        return 0
    largest = _largest_picture(shape.vision, settings) // MERGED
    capacity = max(settings.scheduler.encoder_cache_tokens, largest)
    encoded = (capacity + largest) * shape.config.hidden_size * device.value_bytes
    prepared = settings.scheduler.max_media_bytes + settings.media.processor_cache_bytes
    return encoded + (prepared if device.is_shared else 0)


def _largest_picture(vision: VisionShape, settings: EngineSettings) -> int:
    """Return the patches of the largest picture that the settings and the context allow."""
    patches = (settings.image_max_pixels or vision.max_pixels) // vision.patch_size**2
    return min(patches, settings.loading.max_model_len * MERGED)


def _picture_values(vision: VisionShape, patches: int) -> int:
    """Return what the tower holds of a picture.

    That is, of all patches, pixels, the stream and its norm, q, k and v, and all of the last norm, twice while
    they are joined; and the intermediate results of the patches that one piece of work takes.
    """
    at_once = min(patches, _PIECE_PATCHES) * (4 * vision.width + vision.mlp_width)
    return patches * (vision.patch_values + 7 * vision.width) + at_once
