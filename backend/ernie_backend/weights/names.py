"""Names and shapes of the tensors that make up each weight, in HF ("-PT") and Paddle ("-Paddle") checkpoints.

    HF      model.*   Linears [out, in], q, k, v and gate, up apart
    Paddle  ernie.*   Linears [in, out], fused: columns [q | k | v], [gate | up]; lookup table [V, H] as in HF

Every MLP, be it dense, an expert or the shared experts, is named alike under a prefix of its own. This module
must not know how tensors are read or in which format they are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from ernie_backend.errors import StartError
from ernie_backend.model_config import ModelConfig
from ernie_backend.weights.roles import Role, WeightKey


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as it must be in the files: its name and its shape there."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """How a weight is made: its tensors, each transposed if so stored, one after another along the outputs."""

    tensors: tuple[TensorSpec, ...]
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


HEAD = "lm_head.weight"
"""The output head, in both layouts."""
Recipes = dict[WeightKey, Recipe]
Named = Iterator[tuple[WeightKey, Recipe]]
_MlpNames = Callable[[str, int, int], tuple[Recipe, Recipe]]
"""Prefix, hidden size and width of an MLP -> the recipes of gate and up, and of down."""


def recipes_for(names: Collection[str], config: ModelConfig, where: str) -> Recipes:
    """Return the recipes of the layout that a checkpoint with tensors ``names`` has.

    ``where`` names the checkpoint in the error.

    Raises:
        StartError: it has neither layout.
    """
    if any(name.startswith("model.layers.") for name in names):
        return huggingface_recipes(config)
    if any(name.startswith("ernie.layers.") for name in names):
        return paddle_recipes(config)
    raise StartError(
        f"{where}: no tensor is named model.layers.* (the HF layout) or ernie.layers.* (the Paddle "
        "layout); this is no ERNIE-4.5 checkpoint"
    )


def is_harmless(name: str) -> bool:
    """Whether a tensor may be left unread without a word: of MTP, saved rotary tables, a tied head's copy."""
    return "mtp" in name or name.endswith("rotary_emb.inv_freq") or name == HEAD


def paddle_recipes(config: ModelConfig) -> Recipes:
    """Return the recipes of the Paddle layout."""
    return dict(_paddle(config))


def huggingface_recipes(config: ModelConfig) -> Recipes:
    """Return the recipes of the HF layout."""
    return dict(_huggingface(config))


def _huggingface(config: ModelConfig) -> Named:
    hidden = config.hidden_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    yield from _common("model.", config, _huggingface_mlp)
    if not config.tie_word_embeddings:
        yield WeightKey(Role.HEAD), _recipe((HEAD, config.vocab_size, hidden))
    for layer in range(config.num_layers):
        attention = f"model.layers.{layer}.self_attn."
        yield (
            WeightKey(Role.QKV, layer),
            _recipe(
                (attention + "q_proj.weight", queries, hidden),
                (attention + "k_proj.weight", keys, hidden),
                (attention + "v_proj.weight", keys, hidden),
            ),
        )
        yield WeightKey(Role.OUTPUT, layer), _recipe((attention + "o_proj.weight", hidden, queries))
        if config.moe is not None and config.has_experts(layer):
            gate = f"model.layers.{layer}.mlp.gate.weight"
            yield WeightKey(Role.ROUTER, layer), _recipe((gate, config.moe.num_experts, hidden))


def _huggingface_mlp(prefix: str, hidden: int, width: int) -> tuple[Recipe, Recipe]:
    gate_up = _recipe((prefix + "gate_proj.weight", width, hidden), (prefix + "up_proj.weight", width, hidden))
    return gate_up, _recipe((prefix + "down_proj.weight", hidden, width))


def _paddle(config: ModelConfig) -> Named:
    hidden = config.hidden_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    yield from _common("ernie.", config, _paddle_mlp)
    if not config.tie_word_embeddings:
        yield WeightKey(Role.HEAD), _transposed(HEAD, hidden, config.vocab_size)
    for layer in range(config.num_layers):
        attention = f"ernie.layers.{layer}.self_attn."
        yield (
            WeightKey(Role.QKV, layer),
            _transposed(attention + "qkv_proj.weight", hidden, queries + 2 * keys),
        )
        yield WeightKey(Role.OUTPUT, layer), _transposed(attention + "o_proj.weight", queries, hidden)
        if config.moe is not None and config.has_experts(layer):
            gate = f"ernie.layers.{layer}.mlp.gate.weight"
            yield WeightKey(Role.ROUTER, layer), _transposed(gate, hidden, config.moe.num_experts)


def _paddle_mlp(prefix: str, hidden: int, width: int) -> tuple[Recipe, Recipe]:
    gate_up = _transposed(prefix + "up_gate_proj.weight", hidden, 2 * width)
    return gate_up, _transposed(prefix + "down_proj.weight", width, hidden)


def _common(prefix: str, config: ModelConfig, mlp_names: _MlpNames) -> Named:
    """Yield what both layouts name alike: the lookup table, the norms, and which MLPs there are."""
    hidden = config.hidden_size
    yield WeightKey(Role.EMBEDDING), _recipe((prefix + "embed_tokens.weight", config.vocab_size, hidden))
    yield WeightKey(Role.FINAL_NORM), _recipe((prefix + "norm.weight", hidden))
    for layer in range(config.num_layers):
        names = f"{prefix}layers.{layer}."
        yield WeightKey(Role.INPUT_NORM, layer), _recipe((names + "input_layernorm.weight", hidden))
        norm = names + "post_attention_layernorm.weight"
        yield WeightKey(Role.POST_ATTENTION_NORM, layer), _recipe((norm, hidden))
        if config.has_experts(layer):
            yield from _experts(names + "mlp.", layer, config, mlp_names)
        else:
            gate_up, down = mlp_names(names + "mlp.", hidden, config.intermediate_size)
            yield WeightKey(Role.GATE_UP, layer), gate_up
            yield WeightKey(Role.DOWN, layer), down


def _experts(prefix: str, layer: int, config: ModelConfig, mlp_names: _MlpNames) -> Named:
    hidden, moe = config.hidden_size, config.moe
    assert moe is not None  # noqa: S101 - the layer has experts
    bias = prefix + "moe_statics.e_score_correction_bias"
    yield WeightKey(Role.ROUTER_BIAS, layer), _recipe((bias, 1, moe.num_experts))
    for expert in range(moe.num_experts):
        gate_up, down = mlp_names(f"{prefix}experts.{expert}.", hidden, moe.intermediate_size)
        yield WeightKey(Role.EXPERT_GATE_UP, layer, expert), gate_up
        yield WeightKey(Role.EXPERT_DOWN, layer, expert), down
    if moe.num_shared_experts:
        gate_up, down = mlp_names(prefix + "shared_experts.", hidden, moe.shared_size)
        yield WeightKey(Role.SHARED_GATE_UP, layer), gate_up
        yield WeightKey(Role.SHARED_DOWN, layer), down


def _recipe(*tensors: tuple[str, int] | tuple[str, int, int]) -> Recipe:
    return Recipe(tuple(TensorSpec(name, tuple(shape)) for name, *shape in tensors))


def _transposed(name: str, inputs: int, outputs: int) -> Recipe:
    return Recipe((TensorSpec(name, (inputs, outputs)),), is_transposed=True)
