"""FastDeploy's compiled ops for XPUs: loaded by their path, told apart by the names of their arguments.

``import fastdeploy`` would start its engine's imports, change the environment and hide a library that does not
load; so the extension module inside the installed package is loaded alone. It is bound to the Paddle that it
was compiled for, and its C++ signatures changed from version to version. pybind11 writes the arguments' names
into each function's docstring: they decide how a function is called, not a version number.

Read in PaddlePaddle/FastDeploy: custom_ops/xpu_ops/src/ops/pybind/pybind.cc at b1432f6c, block_attn.cc at
e9a40218, block_attn_fused.cc at ba8a1245, block_attn_spliced.cc at 1226b271,
model_executor/ops/xpu/__init__.py.
"""

from __future__ import annotations

import enum
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Op = Callable[..., Any]

FOLDER = "model_executor/ops/xpu"
FILES = ("fastdeploy_ops.py", "fastdeploy_ops_pd_.so")
"""The loader that Paddle writes beside an extension, and the extension; the first that is there is taken."""
_MODULE = "fastdeploy_ops"
"""Its own name for itself, which the import of an extension must use."""


class Lineage(enum.Enum):
    """Forms of ``block_attn``, by the versions of FastDeploy that have them."""

    V2_3 = "2.3"
    V2_4 = "2.4 and 2.5"
    DEVELOP = "the development branch of 2026-04"


NEEDED: Mapping[str, str] = {
    "block_attn": "2.3 or newer",
    "weight_only_linear_xpu": "2.3 or newer",
    "moe_topk_select": "2.2 or newer",
    "ep_moe_expert_dispatch": "2.2 or newer",
    "moe_expert_ffn": "2.2 or newer",
    "ep_moe_expert_combine": "2.2 or newer",
    "xpu_moe_layer": "2.2 or newer",
}
"""Op -> the versions of FastDeploy that have it."""
_COMMON = (
    *("qkv", "key_cache", "value_cache", "rotary_embs", "block_tables", "prefix_block_tables", "len_info_cpu"),
    *("encoder_seq_lod_cpu", "decoder_seq_lod_cpu", "encoder_kv_lod_cpu", "encoder_batch_map_cpu"),
    *("decoder_context_len_cpu", "decoder_context_len_cache_cpu", "decoder_batch_map_cpu", "prefix_len_cpu"),
    *("k_scales", "v_scales", "k_scales_inv", "v_scales_inv", "k_zeros", "v_zeros", "shift", "smooth"),
    *("kv_signal_data_cpu", "cachekv_signal_thread_cpu", "rope_3d"),
)
_ON_DEVICE = (
    *("encoder_seq_lod", "decoder_seq_lod", "encoder_kv_lod", "encoder_batch_map", "decoder_context_len"),
    *("decoder_context_len_cache", "decoder_batch_map", "prefix_len", "q_norm_weight", "k_norm_weight"),
)
_ATTENTION: Mapping[Lineage, frozenset[str]] = {
    Lineage.V2_3: frozenset({*_COMMON, "cum_offsets", "pos_emb_type"}),
    Lineage.V2_4: frozenset({*_COMMON, *_ON_DEVICE, "cum_offsets", "use_neox_rotary_style"}),
    Lineage.DEVELOP: frozenset(
        {*_COMMON, *_ON_DEVICE, "slot_mapping_enc", "slot_mapping_dec", "use_neox_rotary_style"}
    ),
}
_ARGUMENTS: Mapping[str, frozenset[str]] = {
    "weight_only_linear_xpu": frozenset(
        {"x", "weight", "weight_scale", "bias", "weight_dtype", "arch", "group_size"}
    ),
    "moe_topk_select": frozenset({"gating_logits", "bias", "moe_topk", "apply_norm_weight"}),
    "ep_moe_expert_dispatch": frozenset(
        {
            *("input", "topk_ids", "topk_weights", "input_scales"),
            *("token_nums_per_expert", "token_nums_this_rank", "quant_method"),
        }
    ),
    "moe_expert_ffn": frozenset(
        {
            *("ffn_in", "token_num_info", "ffn1_weight", "ffn2_weight", "ffn1_bias", "ffn2_bias"),
            *("ffn1_act_scale", "ffn2_act_scale", "ffn1_weight_scale", "ffn2_weight_scale"),
            *("ffn2_shift", "ffn2_smooth", "quant_method", "hadamard_blocksize", "valid_token_num"),
        }
    ),
    "ep_moe_expert_combine": frozenset(
        {"ffn_out", "moe_index", "weights", "recv_token_num", "expand_token_num", "hidden_dim", "topk"}
    ),
    "xpu_moe_layer": frozenset(
        {
            *("x", "gate_weight", "gate_correction_bias", "up_gate_proj_weight", "down_proj_weight"),
            *("up_gate_proj_bias", "down_proj_bias", "up_gate_proj_weight_scale", "down_proj_weight_scale"),
            *("down_proj_in_scale", "quant_method", "moe_top_k", "moe_group"),
        }
    ),
}
"""Names of the arguments, in any order: ops are called by name."""
_WAY_OUT = "install one of them, or set ERNIE_XPU_OPS=composed, the slow fallback"


@dataclass(frozen=True)
class Library:
    """FastDeploy's ops, and how to call those that have several forms."""

    block_attn: Op
    weight_only_linear_xpu: Op
    moe_topk_select: Op
    ep_moe_expert_dispatch: Op
    moe_expert_ffn: Op
    ep_moe_expert_combine: Op
    xpu_moe_layer: Op
    lineage: Lineage

    @classmethod
    def of_module(cls, module: object) -> Library:
        """Take the ops of a module.

        Raises:
            RuntimeError: one is missing or has arguments that no version known here has; names the op, and the
                versions that have it.
        """
        ops: dict[str, Op] = {}
        for name, versions in NEEDED.items():
            op = getattr(module, name, None)
            if op is None:
                raise RuntimeError(
                    f"FastDeploy's XPU ops have no {name}, which versions {versions} have; {_WAY_OUT}"
                )
            if name in _ARGUMENTS and argument_names(op, name) != _ARGUMENTS[name]:
                raise RuntimeError(_unknown(name, argument_names(op, name) ^ _ARGUMENTS[name]))
            ops[name] = op
        return cls(**ops, lineage=_lineage(argument_names(ops["block_attn"], "block_attn")))


def find_library(package: str = "fastdeploy") -> Path | None:
    """Return the file of FastDeploy's XPU ops; None if they are not installed. Nothing is imported."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for name in FILES:
            path = Path(folder) / FOLDER / name
            if path.exists():
                return path
    return None


def load_library(path: Path) -> Library:
    """Load the ops in a file.

    Raises:
        RuntimeError: it does not load, or is of no version that is known here.
    """
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    assert spec is not None  # noqa: S101 - .py and .so have loaders
    assert spec.loader is not None  # noqa: S101
    sys.modules[_MODULE] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the loader that Paddle writes runs code of its own
        del sys.modules[_MODULE]
        raise RuntimeError(
            f"FastDeploy's XPU ops in {path} cannot be loaded ({error}); they need the Paddle that they were "
            "compiled with, see version.txt of FastDeploy, or set ERNIE_XPU_OPS=composed, the slow fallback"
        ) from error
    return Library.of_module(sys.modules[_MODULE])  # which may have put another module in its place


def argument_names(op: Op, name: str) -> frozenset[str]:
    """Return the names of an op's arguments, from the signature that pybind11 puts before its docstring."""
    signature = re.match(rf"\s*{name}\((.*?)\)\s*->", op.__doc__ or "", re.DOTALL)
    if signature is None:
        return frozenset()
    flat = signature[1]
    while nested := re.search(r"\[[^\[\]]*\]|<[^<>]*>|\([^()]*\)", flat):
        flat = flat[: nested.start()] + flat[nested.end() :]
    return frozenset(re.split(r"[:=]", part)[0].strip() for part in flat.split(","))


def _lineage(names: frozenset[str]) -> Lineage:
    for lineage, expected in _ATTENTION.items():
        if names == expected:
            return lineage
    nearest = min(_ATTENTION.values(), key=lambda expected: len(expected ^ names))
    raise RuntimeError(_unknown("block_attn", names ^ nearest))


def _unknown(name: str, difference: frozenset[str]) -> str:
    known = ", ".join(each.value for each in Lineage)
    return (
        f"FastDeploy's {name} has other arguments ({', '.join(sorted(difference))}) than in the versions known "
        f"here: {known}; {_WAY_OUT}"
    )
