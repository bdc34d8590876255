"""Write a checkpoint of ERNIE-4.5-0.3B's shape with random bfloat16 weights, as a server loads it.

    PYTHONPATH=benchmarks python3 benchmarks/peers/random_checkpoint.py DIRECTORY

Ours loads all of it; vLLM and its config.json only, with weights of its own. The tokenizer is the embedded
model's, whose vocabulary is smaller: prompts are token ids. Needs NumPy.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from model_shapes import SHAPE

TOKENIZER = Path(__file__).resolve().parents[2] / "model_repository" / "ernie-tiny" / "weights"
TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and shapes of all weights."""
    hidden, inner, head_dim = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["head_dim"]
    queries, keys = SHAPE["num_attention_heads"] * head_dim, SHAPE["num_key_value_heads"] * head_dim
    yield "model.embed_tokens.weight", (SHAPE["vocab_size"], hidden)
    yield "model.norm.weight", (hidden,)
    for layer in range(SHAPE["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "self_attn.q_proj.weight", (queries, hidden)
        yield prefix + "self_attn.k_proj.weight", (keys, hidden)
        yield prefix + "self_attn.v_proj.weight", (keys, hidden)
        yield prefix + "self_attn.o_proj.weight", (hidden, queries)
        yield prefix + "mlp.gate_proj.weight", (inner, hidden)
        yield prefix + "mlp.up_proj.weight", (inner, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, inner)


def write(directory: Path) -> None:
    """Write config.json, the tokenizer and the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (TOKENIZER / name).exists():
            shutil.copy(TOKENIZER / name, directory)
    (directory / "config.json").write_text(json.dumps({**SHAPE, "torch_dtype": "bfloat16"}, indent=2))
    header, end, random = {}, 0, np.random.default_rng(0)
    for name, shape in tensors():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, shape in tensors():
            values = random.standard_normal(shape, np.float32) * np.float32(0.02)
            values = np.ones(shape, np.float32) if "norm" in name else values
            file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
