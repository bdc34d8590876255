"""Which tensors make up each weight of a model: their names and shapes in a checkpoint's layout.

    HF      model.*   Linears [out, in], q, k, v and gate, up apart
    Paddle  ernie.*   Linears [in, out], fused: columns [q | k | v], [gate | up]; lookup table [V, H] as in HF

The weights of all layers are those of a few groups that repeat: the loader spells them out weight by weight,
the planner counts them. Every MLP, be it dense, an expert or the shared experts, is named alike under a prefix
of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ernie_backend.config.architectures import ARCHITECTURES, TensorLayout
from ernie_backend.config.model_config import ModelConfig, MoeConfig
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
        """The weight's shape, outputs first."""
        if self.is_transposed:
            return self.tensors[0].shape[::-1]
        return (sum(self.heights), *self.tensors[0].shape[1:])

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


def weight_groups(config: ModelConfig, layout: TensorLayout) -> Iterator[WeightGroup]:
    """Yield all weights of a model by their names in a layout.

    Only the sizes of a vision bank are known: its experts are yielded under the names of the text's.
    """
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
    for bank in config.expert_banks:
        yield from _experts(layout, of_layer + "mlp.", hidden, bank)
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
    for bank in config.expert_banks:
        router = _linear(layout, of_layer + "mlp.", ("gate",), (bank.num_experts,), hidden)
        yield WeightGroup({Role.ROUTER: router}, bank.layers)


def _experts(layout: TensorLayout, prefix: str, hidden: int, bank: MoeConfig) -> Iterator[WeightGroup]:
    bias = _tensor(prefix + "moe_statics.e_score_correction_bias", 1, bank.num_experts)
    yield WeightGroup({Role.ROUTER_BIAS: bias}, bank.layers)
    mlp = _mlp(layout, prefix + "experts.{expert}.", hidden, bank.intermediate_size)
    recipes = dict(zip((Role.EXPERT_GATE_UP, Role.EXPERT_DOWN), mlp, strict=True))
    yield WeightGroup(recipes, bank.layers, experts=range(bank.num_experts))


def _mlp(layout: TensorLayout, prefix: str, hidden: int, width: int) -> tuple[Recipe, Recipe]:
    """Return the recipes of gate and up, and of down."""
    gate_up = _linear(layout, prefix, layout.gate_up, (width, width), hidden)
    return gate_up, _linear(layout, prefix, ("down_proj",), (hidden,), width)


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
    for layout in layouts:
        if any(name.startswith(f"{layout.prefix}layers.") for name in names):
            return recipes(config, layout)
    known = " or ".join(f"{layout.prefix}layers.* (the {layout.name} layout)" for layout in layouts)
    raise StartError(f"{where}: no tensor is named {known}; this is not a checkpoint of {config.architecture}")


def recipes(config: ModelConfig, layout: TensorLayout) -> Recipes:
    """Return the recipe of every weight in a layout: ``HUGGINGFACE``, ``PADDLE``."""
    return dict(pair for group in weight_groups(config, layout) for pair in group.weights())


def is_harmless(name: str) -> bool:
    """Whether a tensor is ignored without a warning: of MTP, a saved rotary table, a tied head's copy."""
    return "mtp" in name or name.endswith("rotary_emb.inv_freq") or name == HEAD
