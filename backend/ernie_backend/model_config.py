"""What ``config.json`` says about a model, read from HF ("-PT") and Paddle ("-Paddle") directories alike.

Both writers agree on most names; they differ in where the rotary base stands (``rope_theta`` or
``rope_parameters.rope_theta``) and in how the architecture is spelled. Everything is checked here, so that no
later part meets an impossible size. This module must not know weights, devices or the engine's settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_backend.errors import StartError
from ernie_backend.model_files import read_json_object

ARCHITECTURES: Mapping[str, str] = {
    "Ernie4_5ForCausalLM": "Ernie4_5ForCausalLM",
    "Ernie4_5_ForCausalLM": "Ernie4_5ForCausalLM",
}
"""Spellings of an architecture -> the one name that the rest of the program uses."""

DEFAULT_ROPE_THETA = 500000.0
DEFAULT_RMS_NORM_EPS = 1e-5


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a dense ERNIE-4.5 decoder.

    Attributes:
        architecture: the HF spelling of the architecture, whatever the file says.
        vocab_size: rows of the embedding, padding included.
        hidden_size: width of the residual stream.
        intermediate_size: width of the MLP.
        num_layers: decoder layers.
        num_heads: query heads.
        num_kv_heads: key and value heads; divides ``num_heads``.
        head_dim: values of one head; ``num_heads * head_dim`` may differ from ``hidden_size``.
        rms_norm_eps: added to the mean of squares in every norm.
        rope_theta: base of the rotary frequencies.
        max_position_embeddings: longest context the checkpoint was made for, in tokens.
        tie_word_embeddings: whether the embedding is the output head too.
        bos_token_id: first token of a text.
        eos_token_ids: tokens that end a generation.
        pad_token_id: the padding token.
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
    max_position_embeddings: int
    tie_word_embeddings: bool
    bos_token_id: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int

    @classmethod
    def from_directory(cls, directory: Path) -> ModelConfig:
        """Read ``directory/config.json``.

        Raises:
            StartError: there is no such file, it is no JSON object, the architecture is unknown, or a field is
                missing, of the wrong type, unsupported, or contradicts another one.
        """
        path = directory / "config.json"
        return _Reader(path, _read_object(path)).config()


def _read_object(path: Path) -> dict[str, Any]:
    if not path.parent.is_dir():
        raise StartError(f"model directory {path.parent} does not exist; give the directory of a checkpoint")
    if not path.is_file():
        raise StartError(f"{path} does not exist; a model directory holds config.json beside its weights")
    return read_json_object(path)


@dataclass(frozen=True)
class _Reader:
    """Takes typed fields out of one config.json; every complaint names the file and the field."""

    path: Path
    fields: Mapping[str, Any]

    def config(self) -> ModelConfig:
        architecture = self._architecture()
        self._refuse_unsupported()
        hidden_size = self._size("hidden_size")
        num_heads = self._size("num_attention_heads")
        config = ModelConfig(
            architecture=architecture,
            vocab_size=self._size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=self._size("intermediate_size"),
            num_layers=self._size("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=self._size("num_key_value_heads", default=num_heads),
            head_dim=self._head_dim(hidden_size, num_heads),
            rms_norm_eps=self._positive("rms_norm_eps", self.fields, DEFAULT_RMS_NORM_EPS),
            rope_theta=self._rope_theta(),
            max_position_embeddings=self._size("max_position_embeddings"),
            tie_word_embeddings=self._flag("tie_word_embeddings", default=True),
            bos_token_id=self._token("bos_token_id", 1),
            eos_token_ids=self._eos_token_ids(),
            pad_token_id=self._token("pad_token_id", 0),
        )
        self._check(config)
        return config

    def _fail(self, complaint: str) -> StartError:
        return StartError(f"{self.path}: {complaint}")

    def _architecture(self) -> str:
        named = self.fields.get("architectures")
        known = ", ".join(ARCHITECTURES)
        if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
            raise self._fail(f"architectures must be a list of one name, found {named!r}; known are {known}")
        if named[0] not in ARCHITECTURES:
            raise self._fail(f"unknown architecture {named[0]!r}; known are {known}")
        return ARCHITECTURES[named[0]]

    def _refuse_unsupported(self) -> None:
        if self._flag("use_bias", default=False):
            raise self._fail("use_bias is true; ERNIE-4.5 Linears with a bias are not supported")
        activation = self.fields.get("hidden_act", "silu")
        if activation != "silu":
            raise self._fail(f"hidden_act is {activation!r}; only 'silu' is supported")
        if self.fields.get("rope_scaling") is not None:
            raise self._fail("rope_scaling is set; text models of ERNIE-4.5 have none and it is not supported")

    def _rope_theta(self) -> float:
        parameters = self.fields.get("rope_parameters")
        if parameters is None:
            return self._positive("rope_theta", self.fields, DEFAULT_ROPE_THETA)
        if not isinstance(parameters, dict):
            raise self._fail(f"rope_parameters must be an object, found {parameters!r}")
        kind = parameters.get("rope_type", "default")
        if kind != "default":
            raise self._fail(f"rope_parameters.rope_type is {kind!r}; only 'default' is supported")
        outer = self._positive("rope_theta", self.fields, DEFAULT_ROPE_THETA)
        return self._positive("rope_theta", parameters, outer)

    def _head_dim(self, hidden_size: int, num_heads: int) -> int:
        if self.fields.get("head_dim") is not None:
            return self._size("head_dim")
        if hidden_size % num_heads:
            raise self._fail(
                f"hidden_size {hidden_size} is no multiple of num_attention_heads {num_heads}; give head_dim"
            )
        return hidden_size // num_heads

    def _eos_token_ids(self) -> tuple[int, ...]:
        value = self.fields.get("eos_token_id", 2)
        ids = value if isinstance(value, list) else [value]
        if not ids or not all(_is_int(token) and token >= 0 for token in ids):
            raise self._fail(f"eos_token_id must be a token id or a list of them, found {value!r}")
        return tuple(ids)

    def _size(self, name: str, default: int | None = None) -> int:
        value = self.fields.get(name, default)
        if value is None:
            raise self._fail(f"{name} is missing")
        if not _is_int(value) or value < 1:
            raise self._fail(f"{name} must be an integer of at least 1, found {value!r}")
        return int(value)

    def _token(self, name: str, default: int) -> int:
        value = self.fields.get(name, default)
        if not _is_int(value) or value < 0:
            raise self._fail(f"{name} must be a token id, found {value!r}")
        return int(value)

    def _positive(self, name: str, fields: Mapping[str, Any], default: float) -> float:
        value = fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self._fail(f"{name} must be a number above 0, found {value!r}")
        return float(value)

    def _flag(self, name: str, *, default: bool) -> bool:
        value = self.fields.get(name, default)
        if not isinstance(value, bool):
            raise self._fail(f"{name} must be true or false, found {value!r}")
        return value

    def _check(self, config: ModelConfig) -> None:
        if config.num_heads % config.num_kv_heads:
            raise self._fail(
                f"num_attention_heads {config.num_heads} is no multiple of "
                f"num_key_value_heads {config.num_kv_heads}"
            )
        if config.head_dim % 2:
            raise self._fail(f"head_dim {config.head_dim} is odd; rotary embeddings need pairs")
        tokens = {
            "bos_token_id": config.bos_token_id,
            "eos_token_id": max(config.eos_token_ids),
            "pad_token_id": config.pad_token_id,
        }
        for name, token in tokens.items():
            if token >= config.vocab_size:
                raise self._fail(f"{name} {token} is outside the vocabulary of {config.vocab_size} tokens")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
