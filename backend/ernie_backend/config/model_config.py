"""What ``config.json`` says about a model, read from HF ("-PT") and Paddle ("-Paddle") directories alike.

Both writers agree on most names; they differ in the place of the rotary base (``rope_theta`` or
``rope_parameters.rope_theta``) and in the spelling of the architecture. A model with vision is the text model
inside it and its tower: transformers 5 keeps the former under ``text_config``, others beside ``vision_config``.
Everything is checked here, so no other module meets an impossible size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ernie_backend.config.architectures import ARCHITECTURES, Architecture, find_architecture
from ernie_backend.config.fields import ConfigFields, is_int
from ernie_backend.config.moe_config import MoeConfig, read_expert_banks, read_experts
from ernie_backend.config.quantization_config import QuantizationConfig, read_quantization_config
from ernie_backend.config.rotary_config import read_rope_theta
from ernie_backend.config.vision_shape import VisionShape
from ernie_kernels.api import RotarySpec
from ernie_kernels.hadamard import check_block

DEFAULT_RMS_NORM_EPS = 1e-5

_COMPUTED: Mapping[str, object] = {
    "hidden_act": "silu",
    "use_bias": False,
    "use_rmsnorm": True,
    "use_qk_norm": False,
    "scale_qk_coeff": 1,
    "sliding_window": None,
    "partial_rotary_factor": 1,
    "rope_reorder": False,
}
"""Fields of config.json that would change the maths -> the one value that is computed here; null means it too.

They are those of ERNIE-4.5 in PaddleFormers and transformers, and a few of other families. Fields of training
are ignored, as are ``rope_3d`` and ``freq_allocation`` of a text model: the three positions of text are equal,
so they change nothing.
"""


_OUTSIDE = ("tie_word_embeddings", "quantization_config")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of an ERNIE-4.5 decoder.

    Attributes:
        architecture: the HF spelling of the architecture, whatever the file says.
        vocab_size: rows of the embedding, padding included.
        hidden_size: width of the residual stream.
        intermediate_size: width of the MLP; in a layer with experts ``moe.intermediate_size`` counts.
        num_layers: decoder layers.
        num_heads: query heads.
        num_kv_heads: key and value heads; divides ``num_heads``.
        head_dim: values of one head; ``num_heads * head_dim`` may differ from ``hidden_size``.
        rms_norm_eps: added to the mean of squares in every norm.
        rope_theta: base of the rotary frequencies.
        rotary_axes: the axis that each pair of a head turns by; empty: positions have one axis.
        compression_ratio: what positions are divided by before they are turned into angles.
        max_position_embeddings: longest context the checkpoint was made for, in tokens.
        tie_word_embeddings: whether the embedding is the output head too.
        bos_token_id: first token of a text.
        eos_token_ids: tokens that end a generation.
        pad_token_id: the padding token.
        moe: the experts; None in a dense model.
        vision_moe: the routed experts that media go to, if they have their own: as many, in the same layers.
        vision: the tower that encodes media; None: the model knows text only.
        quantization_config: how the checkpoint's weights are quantized; None: they are not.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rotary_axes: tuple[int, ...]
    compression_ratio: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    bos_token_id: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    moe: MoeConfig | None = None
    vision_moe: MoeConfig | None = None
    vision: VisionShape | None = None
    quantization_config: QuantizationConfig | None = None

    @classmethod
    def from_directory(cls, directory: Path) -> ModelConfig:
        """Read ``directory/config.json``.

        Raises:
            StartError: there is no such file, it is not a JSON object, or see ``from_fields``.
        """
        return cls.from_fields(ConfigFields.read(directory / "config.json"))

    @classmethod
    def from_fields(cls, fields: ConfigFields) -> ModelConfig:
        """Return what the fields of a config.json say.

        Raises:
            StartError: the architecture is unknown, or a field is missing, of the wrong type, unsupported, or
                contradicts another one.
        """
        architecture = find_architecture(fields)
        whole, fields = fields, _text_fields(fields) if architecture.tower else fields
        fields.refuse_others(_COMPUTED)
        num_heads = fields.size("num_attention_heads")
        num_layers = fields.size("num_hidden_layers")
        head_dim = _head_dim(fields, num_heads)
        moe, vision_moe = _banks(fields, architecture, num_layers)
        config = cls(
            architecture=architecture.name,
            vocab_size=fields.size("vocab_size"),
            hidden_size=fields.size("hidden_size"),
            intermediate_size=fields.size("intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=fields.size("num_key_value_heads", default=num_heads),
            head_dim=head_dim,
            rms_norm_eps=fields.positive("rms_norm_eps", DEFAULT_RMS_NORM_EPS),
            rope_theta=read_rope_theta(fields),
            rotary_axes=architecture.axes(fields, head_dim // 2) if architecture.axes else (),
            compression_ratio=fields.positive("compression_ratio", 1.0),
            max_position_embeddings=fields.size("max_position_embeddings"),
            tie_word_embeddings=fields.flag("tie_word_embeddings", default=True),
            bos_token_id=fields.token("bos_token_id", 1),
            eos_token_ids=_eos_token_ids(fields),
            pad_token_id=fields.token("pad_token_id", 0),
            moe=moe,
            vision_moe=vision_moe,
            vision=architecture.tower(_inner(whole, "vision_config")) if architecture.tower else None,
            quantization_config=read_quantization_config(fields),
        )
        _check(fields, config)
        return config

    @property
    def expert_banks(self) -> tuple[MoeConfig, ...]:
        """The banks of routed experts: none, that of all tokens, or those of text and of media."""
        return tuple(bank for bank in (self.moe, self.vision_moe) if bank is not None)

    @property
    def expert_layers(self) -> Sequence[int]:
        """The layers that have experts in place of a dense MLP."""
        return self.moe.layers if self.moe else ()

    def has_experts(self, layer: int) -> bool:
        """Whether a layer has experts in place of a dense MLP."""
        return layer in self.expert_layers

    def rotary(self, max_positions: int) -> RotarySpec:
        """Return how queries and keys are rotated at positions below ``max_positions``."""
        return RotarySpec(
            self.head_dim,
            max_positions,
            self.rope_theta,
            ARCHITECTURES[self.architecture].is_interleaved,
            compression_ratio=self.compression_ratio,
            axes=self.rotary_axes,
        )


def _text_fields(fields: ConfigFields) -> ConfigFields:
    """Return the fields of the text model inside a model with vision; some stand outside, and count there."""
    outside = {name: fields.values[name] for name in _OUTSIDE if name in fields.values}
    return ConfigFields(fields.path, {**_inner(fields, "text_config").values, **outside})


def _inner(fields: ConfigFields, name: str) -> ConfigFields:
    """Return the fields of an object in config.json, or of config.json itself if it is absent."""
    value = fields.values.get(name)
    if value is None:
        return fields
    if not isinstance(value, dict):
        raise fields.error(f"{name} must be an object, found {value!r}")
    return ConfigFields(fields.path, value)


def _banks(
    fields: ConfigFields, architecture: Architecture, num_layers: int
) -> tuple[MoeConfig | None, MoeConfig | None]:
    """Return the experts of all tokens, or those of text and those of media."""
    if not architecture.has_experts:
        return None, None
    if architecture.tower is None:
        return read_experts(fields, num_layers), None
    return read_expert_banks(fields, num_layers)


def _head_dim(fields: ConfigFields, num_heads: int) -> int:
    if fields.values.get("head_dim") is not None:
        return fields.size("head_dim")
    hidden_size = fields.size("hidden_size")
    if hidden_size % num_heads:
        raise fields.error(
            f"hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads}; give head_dim"
        )
    return hidden_size // num_heads


def _eos_token_ids(fields: ConfigFields) -> tuple[int, ...]:
    value = fields.values.get("eos_token_id", 2)
    ids = value if isinstance(value, list) else [value]
    if not ids or not all(is_int(token) and token >= 0 for token in ids):
        raise fields.error(f"eos_token_id must be a token id or a list of them, found {value!r}")
    return tuple(ids)


def _check(fields: ConfigFields, config: ModelConfig) -> None:
    if config.num_heads % config.num_kv_heads:
        raise fields.error(
            f"num_attention_heads {config.num_heads} is not a multiple of "
            f"num_key_value_heads {config.num_kv_heads}"
        )
    _check_rotation(fields, config)
    if config.head_dim % 2:
        raise fields.error(f"head_dim {config.head_dim} is odd; rotary embeddings need pairs")
    tokens = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": max(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }
    for name, token in tokens.items():
        if token >= config.vocab_size:
            raise fields.error(f"{name} {token} is outside the vocabulary of {config.vocab_size} tokens")


def _check_rotation(fields: ConfigFields, config: ModelConfig) -> None:
    stored, moe = config.quantization_config, config.moe
    if stored is None or moe is None or stored.quantization != "w4a8":
        return
    try:
        check_block(stored.hadamard_block, moe.intermediate_size)
    except ValueError as error:
        raise fields.error(f"hadamard_block_size does not suit moe_intermediate_size: {error}") from error
