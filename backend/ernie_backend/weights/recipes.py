"""Which tensors make up each weight of a model: their names and shapes in a checkpoint's layout.

    HF      model.*   Linears [out, in], q, k, v and gate, up apart
    Paddle  ernie.*   Linears [in, out], fused: columns [q | k | v], [gate | up]; lookup table [V, H] as in HF

The weights of all layers are those of a few groups that repeat: the loader spells them out weight by weight,
the planner counts them. Every MLP, be it dense, an expert or the shared experts, is named alike under a prefix
of its own. A vision tower has the names of its first implementation in both layouts; a convolution over patches
is a matrix here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ernie_backend.config.architectures import ARCHITECTURES, TensorLayout
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.config.moe_config import MoeConfig
from ernie_backend.config.vision_shape import CHANNELS, MERGED, VisionShape
from ernie_backend.errors import StartError
from ernie_backend.weights.roles import Role, WeightKey


@dataclass(frozen=True)
class CheckpointTensor:
    """A tensor as it must be in the files: its name and its shape there."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """How a weight is made: its tensors, transposed if stored so, concatenated along the outputs."""

    tensors: tuple[CheckpointTensor, ...]
    is_transposed: bool = False

    @property
    def heights(self) -> list[int]:
        """How many of the weight's outputs each tensor has."""
        return [tensor.shape[-1 if self.is_transposed else 0] for tensor in self.tensors]

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape, outputs first; a convolution's as a matrix."""
        shape = self.tensors[0].shape
        widths = shape[:-1] if self.is_transposed else shape[1:]
        return (sum(self.heights), *([math.prod(widths)] if widths else []))

    def named(self, layer: int, expert: int) -> Recipe:
        """Return the recipe with the numbers of a layer and an expert in the names of its tensors."""
        named = (replace(each, name=each.name.format(layer=layer, expert=expert)) for each in self.tensors)
        return replace(self, tensors=tuple(named))


Recipes = dict[WeightKey, Recipe]


@dataclass(frozen=True)
class WeightGroup:
    """Weights that repeat in some layers, and for some experts of each.

    Attributes:
        recipes: by role; names of tensors have the placeholders ``{layer}`` and ``{expert}``.
        layers: those layers; ``range(1)`` for weights outside of the layers.
        without: layers among these that do not have them.
        experts: those experts; ``range(1)`` for weights of no expert.
    """

    recipes: Mapping[Role, Recipe]
    layers: Sequence[int] = range(1)
    without: Sequence[int] = ()
    experts: range = range(1)

    @property
    def num_layers(self) -> int:
        """How many layers have them."""
        return len(self.layers) - len(self.without)

    def weights(self) -> Iterator[tuple[WeightKey, Recipe]]:
        """Yield every weight, layer by layer."""
        without = set(self.without)
        for layer in self.layers:
            for expert in self.experts if layer not in without else ():
                for role, recipe in self.recipes.items():
                    yield WeightKey(role, layer, expert), recipe.named(layer, expert)


HEAD = "lm_head.weight"
"""The output head, in both layouts."""
_UNUSED = re.compile(r"mtp|rotary_emb\.inv_freq$|\.packing_position_embedding\.|vision_model\.head\.")
"""Of MTP, a saved rotary table, what PaddleOCR-VL's tower does not use; a tied head's copy is another."""


def weight_groups(config: ModelConfig, layout: TensorLayout) -> Iterator[WeightGroup]:
    """Yield all weights of a model by their names in a layout."""
    hidden, layers = config.hidden_size, range(config.num_layers)
    of_layer = layout.prefix + "layers.{layer}."
    embedding = _tensor(layout.prefix + "embed_tokens.weight", config.vocab_size, hidden)
    yield WeightGroup(
        {Role.EMBEDDING: embedding, Role.FINAL_NORM: _tensor(layout.prefix + "norm.weight", hidden)}
    )
    if not config.tie_word_embeddings:
        yield WeightGroup({Role.HEAD: _linear(layout, "", ("lm_head",), (config.vocab_size,), hidden)})
    norms = {
        Role.INPUT_NORM: _tensor(of_layer + "input_layernorm.weight", hidden),
        Role.POST_ATTENTION_NORM: _tensor(of_layer + "post_attention_layernorm.weight", hidden),
    }
    yield WeightGroup(norms, layers)
    mlp = _mlp(layout, of_layer + "mlp.", hidden, config.intermediate_size)
    yield WeightGroup(dict(zip((Role.GATE_UP, Role.DOWN), mlp, strict=True)), layers, config.expert_layers)
    yield from _experts(layout, of_layer + "mlp.", hidden, config.expert_banks)
    if config.moe is not None and config.moe.num_shared_experts:
        mlp = _mlp(layout, of_layer + "mlp.shared_experts.", hidden, config.moe.shared_size)
        roles = (Role.SHARED_GATE_UP, Role.SHARED_DOWN)
        yield WeightGroup(dict(zip(roles, mlp, strict=True)), config.expert_layers)
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = {
        Role.QKV: _linear(layout, of_layer + "self_attn.", layout.qkv, (queries, keys, keys), hidden),
        Role.OUTPUT: _linear(layout, of_layer + "self_attn.", ("o_proj",), (hidden,), queries),
    }
    yield WeightGroup(attention, layers)
    if config.vision is not None:
        yield from tower_groups(config, config.vision, layout)


def _experts(
    layout: TensorLayout, prefix: str, hidden: int, banks: Sequence[MoeConfig]
) -> Iterator[WeightGroup]:
    """Yield the experts of all banks: numbered through, their routers' biases one tensor."""
    for index, bank in enumerate(banks):
        experts = range(index * bank.num_experts, (index + 1) * bank.num_experts)
        shape = (hidden, bank.num_experts) if layout.is_router_transposed else (bank.num_experts, hidden)
        role, suffix = ((Role.ROUTER, "weight"), (Role.VISION_ROUTER, "weight_1"))[index]
        gate = Recipe((CheckpointTensor(f"{prefix}gate.{suffix}", shape),), layout.is_router_transposed)
        yield WeightGroup({role: gate}, bank.layers)
        mlp = _mlp(layout, prefix + "experts.{expert}.", hidden, bank.intermediate_size)
        recipes = dict(zip((Role.EXPERT_GATE_UP, Role.EXPERT_DOWN), mlp, strict=True))
        yield WeightGroup(recipes, bank.layers, experts=experts)
    if banks:
        bias = _tensor(prefix + "moe_statics.e_score_correction_bias", len(banks), banks[0].num_experts)
        yield WeightGroup({Role.ROUTER_BIAS: bias}, banks[0].layers)


def _mlp(layout: TensorLayout, prefix: str, hidden: int, width: int) -> tuple[Recipe, Recipe]:
    """Return the recipes of gate and up, and of down."""
    gate_up = _linear(layout, prefix, layout.gate_up, (width, width), hidden)
    return gate_up, _linear(layout, prefix, ("down_proj",), (hidden,), width)


def tower_groups(config: ModelConfig, vision: VisionShape, layout: TensorLayout) -> Iterator[WeightGroup]:
    """Yield the weights of a vision tower, and of what joins it to the decoder."""
    if vision.table_side:
        yield from _ocr_tower(config, vision, layout)
    else:
        yield from _resampler_tower(config, vision, layout)


def _resampler_tower(config: ModelConfig, vision: VisionShape, layout: TensorLayout) -> Iterator[WeightGroup]:
    """Yield ERNIE-4.5-VL's tower and resampler."""
    width, joined = vision.width, MERGED * vision.width
    patch = _linear(layout, layout.tower, ("patch_embed.proj",), (width,), vision.patch_values)
    yield WeightGroup(
        {Role.VISION_PATCH: patch, **_affine_norm(Role.VISION_FINAL_NORM, f"{layout.tower}ln", width)}
    )
    block = layout.tower + "blocks.{layer}."
    names = ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    yield WeightGroup(_tower_layer(vision, layout, block, ("attn.qkv",), names), range(vision.depth))
    prefix = layout.prefix + "resampler_model."
    resampler = _affine(layout, Role.RESAMPLER_OUTPUT, f"{prefix}mlp", config.hidden_size, joined)
    resampler[Role.RESAMPLER_NORM] = _tensor(f"{prefix}after_norm.weight", config.hidden_size)
    for up, down, norm, name, inputs in (
        (Role.SPATIAL_UP, Role.SPATIAL_DOWN, Role.SPATIAL_NORM, "spatial_linear", joined),
        (Role.TEMPORAL_UP, Role.TEMPORAL_DOWN, Role.TEMPORAL_NORM, "temporal_linear", 2 * joined),
    ):
        resampler |= _affine(layout, up, f"{prefix}{name}.0", joined, inputs)
        resampler |= _affine(layout, down, f"{prefix}{name}.2", joined, joined)
        resampler |= _affine_norm(norm, f"{prefix}{name}.3", joined)
    yield WeightGroup(resampler)


def _ocr_tower(config: ModelConfig, vision: VisionShape, layout: TensorLayout) -> Iterator[WeightGroup]:
    """Yield PaddleOCR-VL's tower and projector."""
    width, joined, patch = vision.width, MERGED * vision.width, vision.patch_size
    embedding = f"{layout.tower}embeddings."
    yield WeightGroup(
        {
            Role.VISION_PATCH: _tensor(f"{embedding}patch_embedding.weight", width, CHANNELS, patch, patch),
            Role.VISION_PATCH_BIAS: _tensor(f"{embedding}patch_embedding.bias", width),
            Role.VISION_POSITIONS: _tensor(
                f"{embedding}position_embedding.weight", vision.table_side**2, width
            ),
            **_affine_norm(Role.VISION_FINAL_NORM, f"{layout.tower}post_layernorm", width),
        }
    )
    block, qkv = layout.tower + "encoder.layers.{layer}.", tuple(f"self_attn.{each}_proj" for each in "qkv")
    names = ("layer_norm1", "self_attn.out_proj", "layer_norm2", "mlp.fc1", "mlp.fc2")
    yield WeightGroup(_tower_layer(vision, layout, block, qkv, names), range(vision.depth))
    yield WeightGroup(
        {
            **_affine_norm(Role.PROJECTOR_NORM, "mlp_AR.pre_norm", width),
            **_affine(layout, Role.PROJECTOR_UP, "mlp_AR.linear_1", joined, joined),
            **_affine(layout, Role.PROJECTOR_DOWN, "mlp_AR.linear_2", config.hidden_size, joined),
        }
    )


def _tower_layer(
    vision: VisionShape, layout: TensorLayout, prefix: str, qkv_names: tuple[str, ...], names: tuple[str, ...]
) -> dict[Role, Recipe]:
    """Return the recipes of a layer; ``names`` are those of its norm, output, norm, up and down."""
    norm, output, mlp_norm, up, down = (prefix + name for name in names)
    width, qkv = vision.width, [prefix + name for name in qkv_names]
    height = 3 * width // len(qkv)
    return {
        **_affine_norm(Role.VISION_ATTENTION_NORM, norm, width),
        Role.VISION_QKV: _linear(layout, "", tuple(qkv), (width,) * 3, width),
        Role.VISION_QKV_BIAS: Recipe(tuple(CheckpointTensor(f"{name}.bias", (height,)) for name in qkv)),
        **_affine(layout, Role.VISION_OUTPUT, output, width, width),
        **_affine_norm(Role.VISION_MLP_NORM, mlp_norm, width),
        **_affine(layout, Role.VISION_UP, up, vision.mlp_width, width),
        **_affine(layout, Role.VISION_DOWN, down, width, vision.mlp_width),
    }


def _affine(layout: TensorLayout, role: Role, name: str, outputs: int, inputs: int) -> dict[Role, Recipe]:
    """Return the recipes of a Linear with a bias."""
    return {role: _linear(layout, "", (name,), (outputs,), inputs), role.bias: _tensor(f"{name}.bias", outputs)}


def _affine_norm(role: Role, name: str, width: int) -> dict[Role, Recipe]:
    """Return the recipes of a norm with a bias."""
    return {role: _tensor(f"{name}.weight", width), role.bias: _tensor(f"{name}.bias", width)}


def _linear(
    layout: TensorLayout, prefix: str, names: tuple[str, ...], outputs: tuple[int, ...], inputs: int
) -> Recipe:
    """Return the recipe of a Linear with groups of ``outputs``, each in a tensor or all in one."""
    heights = outputs if len(names) > 1 else (sum(outputs),)
    shapes = [(inputs, height) if layout.is_transposed else (height, inputs) for height in heights]
    tensors = [
        CheckpointTensor(f"{prefix}{name}.weight", shape) for name, shape in zip(names, shapes, strict=True)
    ]
    return Recipe(tuple(tensors), layout.is_transposed)


def _tensor(name: str, *shape: int) -> Recipe:
    """Return the recipe of a tensor that all layouts store alike."""
    return Recipe((CheckpointTensor(name, shape),))


def recipes_for(names: Collection[str], config: ModelConfig, where: str) -> Recipes:
    """Return the recipes of the layout that a checkpoint with tensors ``names`` has.

    ``where`` names the checkpoint in the error.

    Raises:
        StartError: it does not have a layout of the architecture.
    """
    layouts = ARCHITECTURES[config.architecture].layouts
    fitting = [each for each in layouts if any(name.startswith(f"{each.prefix}layers.") for name in names)]
    # The decoder's names decide, then the tower's.
    fitting.sort(key=lambda layout: not any(name.startswith(layout.tower) for name in names))
    if fitting:
        return recipes(config, fitting[0])
    names_of = dict.fromkeys(f"{layout.prefix}layers.* (the {layout.name} layout)" for layout in layouts)
    known = " or ".join(names_of)
    raise StartError(f"{where}: no tensor is named {known}; this is not a checkpoint of {config.architecture}")


def recipes(config: ModelConfig, layout: TensorLayout) -> Recipes:
    """Return the recipe of every weight in a layout of ``config/architectures.py``."""
    return dict(pair for group in weight_groups(config, layout) for pair in group.weights())


def is_harmless(name: str) -> bool:
    """Whether a tensor is ignored without a warning."""
    return name == HEAD or _UNUSED.search(name) is not None
