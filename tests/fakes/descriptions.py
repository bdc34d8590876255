"""What an engine says of itself, made up."""

from __future__ import annotations

from typing import Any

from ernie_wire.status import Description


def description(**changes: Any) -> Description:
    """Return a description with some fields changed."""
    facts: dict[str, Any] = {
        "architecture": "Ernie4_5ForCausalLM",
        "root": "/models/tiny",
        "max_model_len": 2048,
        "max_num_seqs": 8,
        "vocab_size": 1000,
        "longest_token_bytes": 0,
        "has_tokenizer": True,
        "device": "cpu",
        "dtype": "float32",
        "quantization": "",
        "activation_dtype": "float32",
        "kv_cache_dtype": "float32",
        "kv_blocks": 100,
        "block_size": 64,
        "enable_logprob": True,
        "max_logprobs": 20,
        "logprobs_mode": "raw_logprobs",
    }
    return Description(**{**facts, **changes})
