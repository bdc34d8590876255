"""Write a GGUF file of a model's shape with random weights, for llama.cpp.

    PYTHONPATH=benchmarks W/venv/bin/python benchmarks/peers/random_gguf.py 0.3b W/dense-bf16.gguf
    PYTHONPATH=benchmarks W/venv/bin/python benchmarks/peers/random_gguf.py 21b-a3b W/moe-q4_0.gguf

The 0.3B shape is in bfloat16, from which llama-quantize makes other types. The 21B shape, whose bfloat16 would
take 44 GB, is in Q4_0 at once: random codes, and one scale for all blocks. Needs the package gguf, which is not
among ours: benchmarks/peers/install.sh makes an environment for it. The vocabulary is made up; its size is the
model's.
"""

from __future__ import annotations

import sys
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from model_shapes import SHAPES

BLOCK, BLOCK_BYTES = 32, 18
"""Of Q4_0: weights, and the bytes of their float16 scale and codes."""


class RandomModel:
    """A GGUF file being written."""

    def __init__(self, shape: str, path: str) -> None:
        self._shape, self._has_experts = SHAPES[shape], "moe_num_experts" in SHAPES[shape]
        self._writer = gguf.GGUFWriter(path, "ernie4_5-moe" if self._has_experts else "ernie4_5")
        self._random = np.random.default_rng(0)
        self._packed: dict[tuple[int, ...], NDArray[Any]] = {}

    def write(self) -> None:
        """Write the file."""
        self._write_facts()
        self._write_vocabulary()
        hidden = self._shape["hidden_size"]
        self._matrix("token_embd.weight", self._shape["vocab_size"], hidden)
        self._vector("output_norm.weight", np.ones(hidden, np.float32))
        for layer in range(self._shape["num_hidden_layers"]):
            self._write_layer(layer, f"blk.{layer}.")
        self._writer.write_header_to_file()
        self._writer.write_kv_data_to_file()
        self._writer.write_tensors_to_file()
        self._writer.close()

    def _write_facts(self) -> None:
        shape, writer = self._shape, self._writer
        writer.add_context_length(shape["max_position_embeddings"])
        writer.add_embedding_length(shape["hidden_size"])
        writer.add_block_count(shape["num_hidden_layers"])
        writer.add_feed_forward_length(shape["intermediate_size"])
        writer.add_head_count(shape["num_attention_heads"])
        writer.add_head_count_kv(shape["num_key_value_heads"])
        writer.add_key_length(shape["head_dim"])
        writer.add_value_length(shape["head_dim"])
        writer.add_rope_dimension_count(shape["head_dim"])
        writer.add_rope_freq_base(shape["rope_theta"])
        writer.add_layer_norm_rms_eps(shape["rms_norm_eps"])
        writer.add_vocab_size(shape["vocab_size"])
        types = gguf.LlamaFileType
        writer.add_file_type(types.MOSTLY_Q4_0 if self._has_experts else types.MOSTLY_BF16)
        if self._has_experts:
            width, shared = shape["moe_intermediate_size"], shape["moe_num_shared_experts"]
            writer.add_expert_count(shape["moe_num_experts"])
            writer.add_expert_used_count(shape["moe_k"])
            writer.add_interleave_moe_layer_step(shape["moe_layer_interval"])
            writer.add_leading_dense_block_count(shape["moe_layer_start_index"])
            writer.add_expert_feed_forward_length(width)
            writer.add_expert_shared_count(shared)
            writer.add_expert_shared_feed_forward_length(shared * width)

    def _write_vocabulary(self) -> None:
        vocab = self._shape["vocab_size"]
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        tokens += [f"\u2581word{index}" for index in range(len(tokens), vocab)]
        self._writer.add_tokenizer_model("llama")
        self._writer.add_token_list(tokens)
        self._writer.add_token_scores([-float(index) for index in range(vocab)])
        self._writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (vocab - 259)])

    def _vector(self, name: str, values: NDArray[np.float32]) -> None:
        self._writer.add_tensor(name, values)

    def _matrix(self, name: str, *sizes: int) -> None:
        """Add a matrix, or one for each expert."""
        if not self._has_experts:
            values = self._random.standard_normal(sizes, np.float32) * np.float32(0.02)
            bits = (values.view(np.uint32) >> 16).astype(np.uint16)
            self._writer.add_tensor(name, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
            return
        # Matrices of one size are the same: the writer keeps them all in memory until the end.
        if sizes not in self._packed:
            blocks = self._random.integers(0, 256, (int(np.prod(sizes)) // BLOCK, BLOCK_BYTES), np.uint8)
            blocks[:, :2] = np.frombuffer(np.float16(0.005).tobytes(), np.uint8)
            self._packed[sizes] = blocks.reshape(*sizes[:-1], sizes[-1] // BLOCK * BLOCK_BYTES)
        self._writer.add_tensor(name, self._packed[sizes], raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    def _write_layer(self, layer: int, prefix: str) -> None:
        shape, head_dim = self._shape, self._shape["head_dim"]
        hidden, inner = shape["hidden_size"], shape["intermediate_size"]
        heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
        for norm in ("attn_norm", "ffn_norm"):
            self._vector(f"{prefix}{norm}.weight", np.ones(hidden, np.float32))
        self._matrix(prefix + "attn_q.weight", heads * head_dim, hidden)
        self._matrix(prefix + "attn_k.weight", kv_heads * head_dim, hidden)
        self._matrix(prefix + "attn_v.weight", kv_heads * head_dim, hidden)
        self._matrix(prefix + "attn_output.weight", hidden, heads * head_dim)
        if self._has_experts and layer >= shape["moe_layer_start_index"]:
            self._write_experts(prefix)
            return
        self._matrix(prefix + "ffn_gate.weight", inner, hidden)
        self._matrix(prefix + "ffn_up.weight", inner, hidden)
        self._matrix(prefix + "ffn_down.weight", hidden, inner)

    def _write_experts(self, prefix: str) -> None:
        hidden, width = self._shape["hidden_size"], self._shape["moe_intermediate_size"]
        experts, shared = self._shape["moe_num_experts"], self._shape["moe_num_shared_experts"] * width
        router = self._random.standard_normal((experts, hidden), np.float32) * np.float32(0.02)
        self._vector(prefix + "ffn_gate_inp.weight", router)
        self._vector(prefix + "exp_probs_b.bias", np.zeros(experts, np.float32))
        self._matrix(prefix + "ffn_gate_exps.weight", experts, width, hidden)
        self._matrix(prefix + "ffn_up_exps.weight", experts, width, hidden)
        self._matrix(prefix + "ffn_down_exps.weight", experts, hidden, width)
        self._matrix(prefix + "ffn_gate_shexp.weight", shared, hidden)
        self._matrix(prefix + "ffn_up_shexp.weight", shared, hidden)
        self._matrix(prefix + "ffn_down_shexp.weight", hidden, shared)


if __name__ == "__main__":
    RandomModel(*sys.argv[1:3]).write()
