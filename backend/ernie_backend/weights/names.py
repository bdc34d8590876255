"""Names and shapes of the tensors that make up each weight, in HF ("-PT") and Paddle ("-Paddle") checkpoints.

    HF      model.*   Linears [out, in], q, k, v and gate, up apart
    Paddle  ernie.*   Linears [in, out], fused: columns [q | k | v], [gate | up]; lookup table [V, H] as in HF

This module must not know how tensors are read or in which format they are kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ernie_backend.errors import StartError
from ernie_backend.model_config import ModelConfig
from ernie_backend.weights.roles import Role


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
    def shape(self) -> tuple[int, ...]:
        """The weight's shape, outputs first."""
        if self.is_transposed:
            return self.tensors[0].shape[::-1]
        return (sum(tensor.shape[0] for tensor in self.tensors), *self.tensors[0].shape[1:])


Recipes = dict[tuple[Role, int], Recipe]
"""(role, layer) -> recipe; roles that are not of a layer stand under layer 0."""


def recipes_for(names: Collection[str], config: ModelConfig, where: str) -> Recipes:
    """Return the recipes of the layout that a checkpoint with tensors ``names`` has.

    ``where`` names the checkpoint in the error.

    Raises:
        StartError: it has neither layout.
    """
    if any(name.startswith("model.layers.") for name in names):
        layout = _huggingface
    elif any(name.startswith("ernie.layers.") for name in names):
        layout = _paddle
    else:
        raise StartError(
            f"{where}: no tensor is named model.layers.* (the HF layout) or ernie.layers.* (the Paddle "
            "layout); this is no ERNIE-4.5 checkpoint"
        )
    return dict(layout(config))


def is_harmless(name: str) -> bool:
    """Whether a tensor may be left unread without a word: MTP weights and saved rotary tables."""
    return "mtp" in name or name.endswith("rotary_emb.inv_freq")


def huggingface_recipes(config: ModelConfig) -> Recipes:
    """Return the recipes of the HF layout."""
    return dict(_huggingface(config))


def _huggingface(config: ModelConfig) -> Iterator[tuple[tuple[Role, int], Recipe]]:
    hidden, wide = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    yield from _shared("model.", config)
    if not config.tie_word_embeddings:
        yield (Role.HEAD, 0), _recipe(("lm_head.weight", config.vocab_size, hidden))
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        yield (
            (Role.QKV, layer),
            _recipe(
                (attention + "q_proj.weight", queries, hidden),
                (attention + "k_proj.weight", keys, hidden),
                (attention + "v_proj.weight", keys, hidden),
            ),
        )
        yield (Role.OUTPUT, layer), _recipe((attention + "o_proj.weight", hidden, queries))
        yield (
            (Role.GATE_UP, layer),
            _recipe((mlp + "gate_proj.weight", wide, hidden), (mlp + "up_proj.weight", wide, hidden)),
        )
        yield (Role.DOWN, layer), _recipe((mlp + "down_proj.weight", hidden, wide))


def _paddle(config: ModelConfig) -> Iterator[tuple[tuple[Role, int], Recipe]]:
    hidden, wide = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    yield from _shared("ernie.", config)
    if not config.tie_word_embeddings:
        yield (Role.HEAD, 0), _transposed("lm_head.weight", hidden, config.vocab_size)
    for layer in range(config.num_layers):
        prefix = f"ernie.layers.{layer}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        yield (Role.QKV, layer), _transposed(attention + "qkv_proj.weight", hidden, queries + 2 * keys)
        yield (Role.OUTPUT, layer), _transposed(attention + "o_proj.weight", queries, hidden)
        yield (Role.GATE_UP, layer), _transposed(mlp + "up_gate_proj.weight", hidden, 2 * wide)
        yield (Role.DOWN, layer), _transposed(mlp + "down_proj.weight", wide, hidden)


def _shared(prefix: str, config: ModelConfig) -> Iterator[tuple[tuple[Role, int], Recipe]]:
    """Yield what both layouts store alike, but for the prefix: the lookup table and the norms."""
    hidden = config.hidden_size
    yield (Role.EMBEDDING, 0), _recipe((prefix + "embed_tokens.weight", config.vocab_size, hidden))
    yield (Role.FINAL_NORM, 0), _recipe((prefix + "norm.weight", hidden))
    for layer in range(config.num_layers):
        norms = f"{prefix}layers.{layer}."
        yield (Role.INPUT_NORM, layer), _recipe((norms + "input_layernorm.weight", hidden))
        yield (Role.POST_ATTENTION_NORM, layer), _recipe((norms + "post_attention_layernorm.weight", hidden))


def _recipe(*tensors: tuple[str, int] | tuple[str, int, int]) -> Recipe:
    return Recipe(tuple(TensorSpec(name, tuple(shape)) for name, *shape in tensors))


def _transposed(name: str, inputs: int, outputs: int) -> Recipe:
    return Recipe((TensorSpec(name, (inputs, outputs)),), is_transposed=True)
