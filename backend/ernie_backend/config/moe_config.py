"""The experts of a model, read from config.json.

Where media have experts of their own, a field has a list of two, of text and of media, or one number for both.
HF directories list the layers that have experts (``mlp_layer_types``), Paddle directories say first, last and
interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ernie_backend.config.fields import ConfigFields

_COMPUTED_MOE: Mapping[str, object] = {
    "scoring_func": "softmax",
    "moe_gate_act": "softmax",
    "moe_norm_gate_logits": True,
    "moe_norm_min": 1e-12,
    "moe_use_aux_free": True,
    "moe_group_experts": False,
    "routed_scaling_factor": 1,
}
"""Fields that would change the choice of experts -> the one value that is computed here."""

_COMPUTED_ONE_BANK: Mapping[str, object] = {"moe_use_hard_gate": False}
"""The same where text and media have the same experts; a hard gate sends each to its own."""
_BY_MODALITY = (
    "moe_num_experts",
    "moe_intermediate_size",
    "moe_layer_start_index",
    "moe_layer_end_index",
)
_LAYER_TYPES = ("dense", "sparse")


@dataclass(frozen=True)
class MoeConfig:
    """The experts of a model, and the layers that have them; the others have a dense MLP.

    Attributes:
        num_experts: routed experts of a layer.
        experts_per_token: how many of them see a token.
        intermediate_size: width of one expert.
        num_shared_experts: experts that see every token, kept as one MLP; 0 if there are none.
        layers: the layers that have experts, in order.
    """

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    num_shared_experts: int
    layers: Sequence[int]

    @property
    def shared_size(self) -> int:
        """Width of the MLP of all shared experts."""
        return self.num_shared_experts * self.intermediate_size


def read_experts(fields: ConfigFields, num_layers: int) -> MoeConfig:
    """Return the experts of a text model.

    Raises:
        StartError: a field is missing, impossible, or asks for other maths.
    """
    fields.refuse_others(_COMPUTED_ONE_BANK)
    return _bank(fields, num_layers)


def read_expert_banks(fields: ConfigFields, num_layers: int) -> tuple[MoeConfig, MoeConfig | None]:
    """Return the experts of text and those of media; None: all have the same.

    Raises:
        StartError: as ``read_experts``, or the two do not fit each other.
    """
    text, *media = (
        _with_layer_types(_bank(each, num_layers), fields, num_layers) for each in _by_modality(fields)
    )
    if not media:
        return text, None
    if media[0].num_experts != text.num_experts or media[0].layers != text.layers:
        raise fields.error(
            "experts of text and of media must be in the same layers and as many; moe_num_experts are "
            f"{text.num_experts} and {media[0].num_experts}, in layers {text.layers} and "
            f"{media[0].layers}"
        )
    return text, media[0]


def _by_modality(fields: ConfigFields) -> list[ConfigFields]:
    """Return the fields of each modality's experts; a number in place of a list is that of all modalities."""
    banks = {name: fields.values[name] for name in _BY_MODALITY if name in fields.values}
    lengths = {name: len(value) for name, value in banks.items() if isinstance(value, list)}
    if len(set(lengths.values())) > 1 or not set(lengths.values()) <= {1, 2}:
        raise fields.error(
            f"lists of experts must have one number for text and one for media; their lengths are {lengths}"
        )
    banks_of: list[dict[str, Any]] = [
        {name: value[index] if isinstance(value, list) else value for name, value in banks.items()}
        for index in range(max(lengths.values(), default=1))
    ]
    return [ConfigFields(fields.path, {**fields.values, **each}) for each in banks_of]


def _with_layer_types(bank: MoeConfig, fields: ConfigFields, num_layers: int) -> MoeConfig:
    """Return the experts with the layers of ``mlp_layer_types`` (transformers), if present."""
    types = fields.values.get("mlp_layer_types")
    if types is None:
        return bank
    is_list = isinstance(types, list) and len(types) == num_layers
    if not is_list or any(each not in _LAYER_TYPES for each in types):
        raise fields.error(
            f"mlp_layer_types must be a list of num_hidden_layers {num_layers} words, each one of "
            f"{', '.join(_LAYER_TYPES)}; found {str(types)[:60]}"
        )
    return replace(bank, layers=tuple(layer for layer, kind in enumerate(types) if kind == "sparse"))


def _last_expert_layer(end: int, num_layers: int) -> int:
    """Return the layer that ``moe_layer_end_index`` means: -1 is the last, as are layers that do not exist."""
    return num_layers - 1 if end == -1 else min(end, num_layers - 1)


def _bank(fields: ConfigFields, num_layers: int) -> MoeConfig:
    fields.refuse_others(_COMPUTED_MOE)
    num_experts = fields.size("moe_num_experts")
    experts_per_token = fields.size("moe_k")
    if experts_per_token > num_experts:
        raise fields.error(f"moe_k {experts_per_token} is more than moe_num_experts {num_experts}")
    start = fields.integer("moe_layer_start_index", 0, default=0)
    end = _last_expert_layer(fields.integer("moe_layer_end_index", -1, default=-1), num_layers)
    interval = fields.size("moe_layer_interval", default=1)
    first = start + -(start + 1) % interval  # a layer i has experts if interval divides i + 1
    return MoeConfig(
        num_experts=num_experts,
        experts_per_token=experts_per_token,
        intermediate_size=fields.size("moe_intermediate_size"),
        num_shared_experts=fields.integer("moe_num_shared_experts", 0, default=0),
        layers=range(first, end + 1, interval),
    )
