"""The ops of each lineage as pybind11 shows them: names, arguments in their order, docstrings, lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from ernie_kernels.fastdeploy.library import Library, Lineage
from fakes.fastdeploy import attention, experts
from fakes.fastdeploy.attention import LENGTHS
from fakes.paddle_bfloat16 import Tensor, kernel

SCALES = ("k_scales", "v_scales", "k_scales_inv", "v_scales_inv", "k_zeros", "v_zeros", "shift", "smooth")
SIGNALS = ("kv_signal_data_cpu", "cachekv_signal_thread_cpu")
CACHES = ("qkv", "key_cache", "value_cache")
TABLES = ("rotary_embs", "block_tables", "prefix_block_tables", "len_info_cpu")
ON_HOST = (
    *("encoder_seq_lod_cpu", "decoder_seq_lod_cpu", "encoder_kv_lod_cpu", "encoder_batch_map_cpu"),
    *("decoder_context_len_cpu", "decoder_context_len_cache_cpu", "decoder_batch_map_cpu", "prefix_len_cpu"),
)
NORMS = ("q_norm_weight", "k_norm_weight")
BLOCK_ATTN: Mapping[Lineage, tuple[str, ...]] = {
    Lineage.V2_3: (
        *(*CACHES, "cum_offsets", *TABLES, *ON_HOST, *SCALES, *SIGNALS),
        *("pos_emb_type='NORMAL'", "rope_3d=False"),
    ),
    Lineage.V2_4: (
        *(*CACHES, "cum_offsets", *TABLES, *ON_HOST, *LENGTHS, *SCALES, *NORMS, *SIGNALS),
        *("use_neox_rotary_style", "rope_3d=False"),
    ),
    Lineage.DEVELOP: (
        *(
            *CACHES,
            *TABLES,
            *ON_HOST,
            *LENGTHS,
            "slot_mapping_enc",
            "slot_mapping_dec",
            *SCALES,
            *NORMS,
            *SIGNALS,
        ),
        *("use_neox_rotary_style", "rope_3d=False"),
    ),
}
"""Arguments in their order; 28, 38 and 39 of them."""


def fastdeploy_module(lineage: Lineage) -> SimpleNamespace:
    """The ops of one lineage as pybind11 would show them."""
    ops: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
        "block_attn": (BLOCK_ATTN[lineage], lambda **given: attention.block_attn(lineage, given)),
        "weight_only_linear_xpu": (
            ("x", "weight", "weight_scale", "bias", "weight_dtype", "arch", "group_size=-1"),
            experts.weight_only_linear,
        ),
        "moe_topk_select": (("gating_logits", "bias", "moe_topk", "apply_norm_weight"), experts.topk_select),
        "ep_moe_expert_dispatch": (
            (
                *("input", "topk_ids", "topk_weights", "input_scales=None"),
                *("token_nums_per_expert", "token_nums_this_rank", "quant_method"),
            ),
            experts.dispatch,
        ),
        "moe_expert_ffn": (
            (
                *("ffn_in", "token_num_info", "ffn1_weight", "ffn2_weight", "ffn1_bias=None", "ffn2_bias=None"),
                *("ffn1_act_scale=None", "ffn2_act_scale=None", "ffn1_weight_scale=None"),
                *("ffn2_weight_scale=None", "ffn2_shift=None", "ffn2_smooth=None"),
                *("quant_method", "hadamard_blocksize", "valid_token_num"),
            ),
            lambda **given: experts.expert_ffn(lineage, **given),
        ),
        "ep_moe_expert_combine": (
            ("ffn_out", "moe_index", "weights", "recv_token_num", "expand_token_num", "hidden_dim", "topk"),
            experts.combine,
        ),
        "xpu_moe_layer": (
            (
                *("x", "gate_weight", "gate_correction_bias", "up_gate_proj_weight", "down_proj_weight"),
                *("up_gate_proj_bias", "down_proj_bias", "up_gate_proj_weight_scale"),
                *("down_proj_weight_scale", "down_proj_in_scale", "quant_method", "moe_top_k", "moe_group"),
            ),
            experts.moe_layer,
        ),
    }
    return SimpleNamespace(**{name: _bound(name, parts) for name, parts in ops.items()})


def fastdeploy_library(lineage: Lineage) -> Library:
    return Library.of_module(fastdeploy_module(lineage))


def _bound(name: str, parts: tuple[tuple[str, ...], Callable[..., Any]]) -> Callable[..., Any]:
    """An op that takes its arguments by place or name and has pybind11's docstring."""
    arguments, compute = parts
    names = [argument.split("=")[0] for argument in arguments]
    defaults = dict.fromkeys((argument.split("=")[0] for argument in arguments if "=" in argument), None)

    def op(*given: Any, **named: Any) -> list[Tensor]:
        values = {**dict(zip(names, given, strict=False)), **named}
        missing = [each for each in names if each not in values and each not in defaults]
        if missing or not values.keys() <= set(names):
            raise TypeError(
                f"{name}(): incompatible function arguments: {missing} {values.keys() - set(names)}"
            )
        results = kernel(_named(name, compute))(**{**defaults, **values})
        return results if isinstance(results, list) else [results]

    types = [
        argument.replace("=", ": Optional[paddle::Tensor] = ")
        if "=" in argument
        else f"{argument}: paddle::Tensor"
        for argument in arguments
    ]
    op.__doc__ = f"{name}({', '.join(types)}) -> List[paddle::Tensor]\n\n{name} in XPU\n"
    return op


def _named(name: str, compute: Callable[..., Any]) -> Callable[..., Any]:
    compute.__name__ = name
    return compute
