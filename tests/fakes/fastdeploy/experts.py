"""Products with int8 weights, and the chain of ops of a layer of experts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.fastdeploy.library import Lineage
from ernie_kernels.formats import round_to_bfloat16, unpack_int4
from ernie_kernels.hadamard import rotate_blocks
from ernie_kernels.paddle.place import paddle
from ernie_kernels.routing import choose_experts
from fakes.fastdeploy.places import check
from fakes.paddle_bfloat16 import PLACE, Floats, Tensor, bfloat16, expect

FFN_NAMES = {
    "w_bfloat16_a_bfloat16": "w16a16",
    "w_channelwise_int8_a_tokenwise_float16": "weight_only_int8",
    "w_channelwise_int4_a_tokenwise_int15": "weight_only_int4",
    "w_channelwise_int4_a_expertwise_int8": "w4a8",
}


def weight_only_linear(
    x: Tensor, weight: Tensor, weight_scale: Tensor, bias: None, weight_dtype: str, arch: int, group_size: int
) -> Tensor:
    expect(
        (bias, weight_dtype, arch, group_size) == (None, "int8", -1, -1), "weight_only_linear_xpu: int8 only"
    )
    inputs, codes = check("x", x, "bfloat16", 2), check("weight", weight, "int8", 2)
    absmax = check("weight_scale", weight_scale, "float32", 1)
    expect(
        codes.shape == (len(absmax), inputs.shape[1]), f"weight {codes.shape} is not [N, K] of x {inputs.shape}"
    )
    return bfloat16(inputs @ codes.astype(np.float32).T * (absmax / np.float32(127)))


def topk_select(gating_logits: Tensor, bias: Tensor, moe_topk: int, apply_norm_weight: bool) -> list[Tensor]:
    expect(apply_norm_weight, "moe_topk_select has normalized weights only")
    logits, correction = check("gating_logits", gating_logits, "float32", 2), check("bias", bias, "float32", 1)
    routing = choose_experts(logits, correction, moe_topk)
    return [PLACE.upload(routing.experts), PLACE.upload(routing.weights)]


def dispatch(
    input: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    input_scales: Tensor | None,
    token_nums_per_expert: list[int],
    token_nums_this_rank: int,
    quant_method: str,
) -> list[Tensor]:
    x, ids = check("input", input, "bfloat16", 2), check("topk_ids", topk_ids, "int32", 2)
    check("topk_weights", topk_weights, "float32", 2)
    expect(token_nums_this_rank == ids.size, f"token_nums_this_rank is {token_nums_this_rank}, not {ids.size}")
    experts = len(token_nums_per_expert)
    order = np.argsort(ids.reshape(-1), kind="stable")
    rows, owners = x[order // ids.shape[1]], ids.reshape(-1)[order]
    lod = np.searchsorted(owners, np.arange(experts + 1)).astype(np.int32)
    places = np.argsort(order).reshape(ids.shape).astype(np.int32)
    absmax = np.zeros(len(rows), np.float32)
    if quant_method == "w4a8":
        absmax = check("input_scales", input_scales, "float32", 1)[owners]
        permuted = PLACE.upload(_codes(rows, absmax[:, None]))
    else:
        expect(input_scales is None, f"{quant_method} has no scales of inputs")
        permuted = bfloat16(rows)
    return [permuted, PLACE.upload(places), PLACE.upload(lod), topk_weights, PLACE.upload(absmax)]


def _codes(x: Floats, absmax: Floats) -> NDArray[np.int8]:
    factors = np.divide(127, absmax, where=absmax > 0, out=np.zeros_like(absmax))
    codes: NDArray[np.int8] = np.rint(x * factors).clip(-127, 127).astype(np.int8)
    return codes


def expert_ffn(
    lineage: Lineage,
    *,
    ffn_in: Tensor,
    token_num_info: Tensor,
    ffn1_weight: Tensor,
    ffn2_weight: Tensor,
    ffn1_act_scale: Tensor | None,
    ffn2_act_scale: Tensor | None,
    ffn1_weight_scale: Tensor,
    ffn2_weight_scale: Tensor,
    quant_method: str,
    hadamard_blocksize: int,
    valid_token_num: int,
    **absent: None,
) -> Tensor:
    expect(not any(each is not None for each in absent.values()), f"unused here: {absent}")
    known = FFN_NAMES if lineage is not Lineage.V2_3 else dict.fromkeys(FFN_NAMES.values(), "")
    expect(quant_method in known, f"quant_method {quant_method} is not of FastDeploy {lineage.value}")
    method = FFN_NAMES.get(quant_method, quant_method)
    lod = check("token_num_info", token_num_info, "int32", 1)
    first, second = (
        _matrices(f"ffn{index}", weight, scale, method)
        for index, weight, scale in ((1, ffn1_weight, ffn1_weight_scale), (2, ffn2_weight, ffn2_weight_scale))
    )
    is_static = method == "w4a8"
    x = check("ffn_in", ffn_in, "int8" if is_static else "bfloat16", 2).astype(np.float32)
    expect(len(x) == valid_token_num == lod[-1], f"valid_token_num is {valid_token_num} of {len(x)} rows")
    expect((hadamard_blocksize > 0) <= is_static, "only w4a8 rotates")
    if is_static:
        x = x * (check("ffn1_act_scale", ffn1_act_scale, "float32", 1)[:, None] / np.float32(127))
    elif method == "weight_only_int4":
        x = _rounded_to_15_bits(x)
    results = np.zeros((len(x), second.shape[1]), np.float32)
    for expert, (begin, end) in enumerate(itertools.pairwise(lod)):
        gate, up = np.split(round_to_bfloat16(x[begin:end] @ first[expert].T), 2, axis=1)
        inner = round_to_bfloat16(gate / (1 + np.exp(-gate)) * up)
        if is_static:
            inner = _static_inputs(inner, ffn2_act_scale, expert, hadamard_blocksize)
        elif method == "weight_only_int4":
            inner = _rounded_to_15_bits(inner)
        results[begin:end] = inner @ second[expert].T
    return bfloat16(results)


def _static_inputs(x: Floats, scales: Tensor | None, expert: int, block: int) -> Floats:
    absmax = check("ffn2_act_scale", scales, "float32", 1)[expert]
    rotated = round_to_bfloat16(rotate_blocks(x, block)) if block > 0 and len(x) else x
    rounded: Floats = _codes(rotated, np.full((1, 1), absmax, np.float32)) * (absmax / np.float32(127))
    return rounded


def _rounded_to_15_bits(x: Floats) -> Floats:
    step = np.abs(x).max(axis=1, keepdims=True, initial=0) / np.float32(16383)
    rounded: Floats = np.rint(x / np.where(step > 0, step, 1)) * step
    return rounded


def _matrices(name: str, weight: Tensor, scale: Tensor | None, method: str) -> Floats:
    """Dequantized weights ``[E, N, K]``; the scale is the absmax of an output."""
    if method == "w16a16":
        return check(f"{name}_weight", weight, "bfloat16", 3)
    codes = check(f"{name}_weight", weight, "int8", 3)
    absmax = check(f"{name}_weight_scale", scale, "float32", 2)
    expect(absmax.shape == codes.shape[:2], f"{name}_weight_scale {absmax.shape} of {codes.shape}: [E, N]")
    levels = 127 if method == "weight_only_int8" else 7
    if levels == 7:
        inputs = 2 * codes.shape[2]
        codes = np.stack([unpack_int4(each.view(np.uint8), inputs) for each in codes])
    matrices: Floats = codes * (absmax / np.float32(levels))[..., None]
    return matrices


def combine(
    ffn_out: Tensor,
    moe_index: Tensor,
    weights: Tensor,
    recv_token_num: int,
    expand_token_num: int,
    hidden_dim: int,
    topk: int,
) -> Tensor:
    rows, places = check("ffn_out", ffn_out, "bfloat16", 2), check("moe_index", moe_index, "int32", 2)
    shares = check("weights", weights, "bfloat16", 2)
    expect(places.shape == (recv_token_num, topk), f"moe_index {places.shape}: {recv_token_num} by {topk}")
    expect(rows.shape == (expand_token_num, hidden_dim), f"ffn_out {rows.shape}")
    return bfloat16((rows[places] * shares[..., None]).sum(axis=1))


def moe_layer(**given: Any) -> Tensor:
    absent = [name for name, value in given.items() if name.endswith(("bias", "scale")) and value is not None]
    expect(absent == ["gate_correction_bias"], f"w16a16 has no {absent}")
    expect(given["quant_method"] == "w16a16" and given["moe_group"] is False, "w16a16 only")
    x, gate = check("x", given["x"], "bfloat16", 2), check("gate_weight", given["gate_weight"], "float32", 2)
    experts, top = len(gate), given["moe_top_k"]
    ids, weights = topk_select(PLACE.upload(x @ gate.T), given["gate_correction_bias"], top, True)
    permuted, places, lod, _, _ = dispatch(
        given["x"], ids, weights, None, list(range(experts)), len(x) * top, "w16a16"
    )
    results = expert_ffn(
        Lineage.V2_4,
        ffn_in=permuted,
        token_num_info=lod,
        ffn1_weight=given["up_gate_proj_weight"],
        ffn2_weight=given["down_proj_weight"],
        ffn1_act_scale=None,
        ffn2_act_scale=None,
        ffn1_weight_scale=paddle.zeros([1]),
        ffn2_weight_scale=paddle.zeros([1]),
        quant_method="w_bfloat16_a_bfloat16",
        hadamard_blocksize=-1,
        valid_token_num=len(x) * top,
    )
    return combine(results, places, bfloat16(weights.numpy()), len(x), len(x) * top, x.shape[1], top)
