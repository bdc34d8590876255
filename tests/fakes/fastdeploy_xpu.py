"""FastDeploy's XPU ops in its three forms, in NumPy: names, arguments and results as in their sources.

Each op checks where its tensors are, their types, shapes and layout, with a sentence that says what is wrong.
Which keys a query sees, and where keys are written, it decides from the lods, maps and tables that it is given,
as the kernels do. A tensor is "on the host" if the host's place made it; all others count as on the device.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.fastdeploy.library import Library, Lineage
from ernie_kernels.formats import round_to_bfloat16, unpack_int4
from ernie_kernels.hadamard import rotate_blocks
from ernie_kernels.paddle.place import Place, paddle
from ernie_kernels.routing import choose_experts
from fakes.paddle_bfloat16 import (
    PLACE,
    Floats,
    Tensor,
    bfloat16,
    expect,
    floats,
    kernel,
    memory,
)

LENGTHS = (
    *("encoder_seq_lod", "decoder_seq_lod", "encoder_kv_lod", "encoder_batch_map", "decoder_context_len"),
    *("decoder_context_len_cache", "decoder_batch_map", "prefix_len"),
)
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
FFN_NAMES = {
    "w_bfloat16_a_bfloat16": "w16a16",
    "w_channelwise_int8_a_tokenwise_float16": "weight_only_int8",
    "w_channelwise_int4_a_tokenwise_int15": "weight_only_int4",
    "w_channelwise_int4_a_expertwise_int8": "w4a8",
}
_HOST_TENSORS: deque[tuple[range, Tensor]] = deque(maxlen=16)
"""Addresses of the newest tensors on the host; while one is here, its memory is no other's."""


def is_on_host(x: Tensor) -> bool:
    address = x.data_ptr()
    return any(address in addresses for addresses, _ in _HOST_TENSORS)


@contextmanager
def known_places() -> Iterator[None]:
    """Remember which tensors the host's place makes."""
    upload = Place.upload

    def remembering(place: Place, values: NDArray[Any]) -> Tensor:
        tensor = upload(place, values)
        if not place.has_bfloat16:
            addresses = range(tensor.data_ptr(), tensor.data_ptr() + max(1, values.nbytes))
            _HOST_TENSORS.append((addresses, tensor))
        return tensor

    with patch.object(Place, "upload", remembering):
        yield
        _HOST_TENSORS.clear()


def check(name: str, x: Tensor, dtype: str, rank: int, *, host: bool = False) -> NDArray[Any]:
    """The values of an argument, if it is what the kernel reads."""
    where = "the host" if host else "the device"
    expect(x is not None, f"{name} is missing")
    expect(str(x.dtype).removeprefix("paddle.") == dtype, f"{name} is {x.dtype}, the kernel reads {dtype}")
    expect(x.ndim == rank, f"{name} has shape {x.shape}, the kernel reads {rank} dimensions")
    expect(0 in x.shape or x.is_contiguous(), f"{name} is not contiguous: strides {x.strides} of {x.shape}")
    expect(0 in x.shape or is_on_host(x) == host, f"{name} is not on {where}")
    return floats(x) if dtype == "bfloat16" else x.numpy()


def fastdeploy_module(lineage: Lineage) -> SimpleNamespace:
    """The ops of one lineage as pybind11 would show them."""
    ops: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
        "block_attn": (BLOCK_ATTN[lineage], lambda **given: _block_attn(lineage, given)),
        "weight_only_linear_xpu": (
            ("x", "weight", "weight_scale", "bias", "weight_dtype", "arch", "group_size=-1"),
            _weight_only_linear,
        ),
        "moe_topk_select": (("gating_logits", "bias", "moe_topk", "apply_norm_weight"), _topk_select),
        "ep_moe_expert_dispatch": (
            (
                *("input", "topk_ids", "topk_weights", "input_scales=None"),
                *("token_nums_per_expert", "token_nums_this_rank", "quant_method"),
            ),
            _dispatch,
        ),
        "moe_expert_ffn": (
            (
                *("ffn_in", "token_num_info", "ffn1_weight", "ffn2_weight", "ffn1_bias=None", "ffn2_bias=None"),
                *("ffn1_act_scale=None", "ffn2_act_scale=None", "ffn1_weight_scale=None"),
                *("ffn2_weight_scale=None", "ffn2_shift=None", "ffn2_smooth=None"),
                *("quant_method", "hadamard_blocksize", "valid_token_num"),
            ),
            lambda **given: _expert_ffn(lineage, **given),
        ),
        "ep_moe_expert_combine": (
            ("ffn_out", "moe_index", "weights", "recv_token_num", "expand_token_num", "hidden_dim", "topk"),
            _combine,
        ),
        "xpu_moe_layer": (
            (
                *("x", "gate_weight", "gate_correction_bias", "up_gate_proj_weight", "down_proj_weight"),
                *("up_gate_proj_bias", "down_proj_bias", "up_gate_proj_weight_scale"),
                *("down_proj_weight_scale", "down_proj_in_scale", "quant_method", "moe_top_k", "moe_group"),
            ),
            _moe_layer,
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


# Attention


def _block_attn(lineage: Lineage, given: dict[str, Any]) -> Tensor:
    step = _Step(lineage, given)
    qkv = check("qkv", given["qkv"], "bfloat16", 2)
    cache_dtype = str(given["key_cache"].dtype).removeprefix("paddle.")
    expect(cache_dtype in ("bfloat16", "int8"), f"key_cache is {cache_dtype}; bfloat16 or int8")
    for name in ("key_cache", "value_cache"):
        check(name, given[name], cache_dtype, 4)
    _, kv_heads, size, head_dim = given["key_cache"].shape
    heads = qkv.shape[1] // head_dim - 2 * kv_heads
    expect(
        heads > 0 and heads % kv_heads == 0, f"qkv of {qkv.shape[1]} has no heads for {kv_heads} of the cache"
    )
    step.check(len(qkv), size, given["key_cache"].shape[0])
    angles = check("rotary_embs", given["rotary_embs"], "float32", 5)
    expect(
        angles.shape[0] == 2 and angles.shape[4] == head_dim, f"rotary_embs is {angles.shape}: [2, 1, L, 1, d]"
    )
    expect(given.get("pos_emb_type", "NORMAL") == "NORMAL", "the kernel's pairs are (2i, 2i + 1) under NORMAL")
    expect(not given.get("use_neox_rotary_style", False) and not given["rope_3d"], "text is not neox, not 3-D")
    parts = qkv.reshape(len(qkv), -1, head_dim)
    queries, keys = (
        round_to_bfloat16(_rotated(each, angles, step.positions))
        for each in (parts[:, :heads], parts[:, heads : heads + kv_heads])
    )
    values = parts[:, heads + kv_heads :]
    stores = [_Store(given, name, cache_dtype) for name in ("key", "value")]
    for store, rows in zip(stores, (keys, values), strict=True):
        store.write(step.slots, rows)
    results = np.zeros((len(qkv), heads, head_dim), np.float32)
    for sequence in step.sequences:
        own = slice(sequence.begin, sequence.end)
        if sequence.blocks is None:  # no prefix anywhere: the kernel reads the new keys as they are
            context = [keys[own], values[own]]
        else:
            context = [store.read(sequence.blocks, sequence.length) for store in stores]
        results[own] = _attended(queries[own], *context)
    return bfloat16(results.reshape(len(qkv), -1))


class _Sequence(SimpleNamespace):
    """Rows begin to end; a context of ``length`` tokens in ``blocks``."""

    begin: int
    end: int
    length: int
    blocks: NDArray[np.int32] | None


class _Step:
    """What the lods say, checked against each other."""

    def __init__(self, lineage: Lineage, given: dict[str, Any]) -> None:
        self.lineage, self.given = lineage, given
        for name in LENGTHS:
            on_host = check(f"{name}_cpu", given[f"{name}_cpu"], "int32", 1, host=True)
            setattr(self, name, on_host)
            if lineage is not Lineage.V2_3:
                twin = check(name, given[name], "int32", 1)
                expect(np.array_equal(twin, on_host), f"{name} on the device differs from its twin on the host")
        self.info = check("len_info_cpu", given["len_info_cpu"], "int32", 1, host=True)
        expected = 6 if lineage is Lineage.V2_3 else 7
        expect(len(self.info) == expected, f"len_info_cpu has {len(self.info)} numbers, not {expected}")
        self.tables = check("block_tables", given["block_tables"], "int32", 2)
        self.prefix_tables = check("prefix_block_tables", given["prefix_block_tables"], "int32", 2)

    def check(self, tokens: int, size: int, num_blocks: int) -> None:
        """Work out positions, slots and sequences; every claim of ``len_info`` must hold."""
        given: Any = self
        enc, dec, total, longest, widest, blocks = (int(each) for each in self.info[:6])
        lod, kv_lod, dec_lod = given.encoder_seq_lod, given.encoder_kv_lod, given.decoder_seq_lod
        expect(lod[enc] == total, f"encoder_seq_lod ends at {lod[enc]}, len_info_cpu says {total}")
        expect(total + dec_lod[dec] == tokens, f"decoder_seq_lod ends at {dec_lod[dec]} of {tokens - total}")
        expect(longest == max(np.diff(lod[: enc + 1]), default=0), f"len_info_cpu: longest chunk {longest}")
        expect(widest == max(np.diff(kv_lod[: enc + 1]), default=0), f"len_info_cpu: longest context {widest}")
        if self.lineage is not Lineage.V2_3:
            most = max(np.diff(dec_lod[: dec + 1]), default=0)
            expect(self.info[6] == most, f"len_info_cpu: most decoded {self.info[6]}, not {most}")
        has_prefix = bool((given.prefix_len[:enc] > 0).any())
        expect(
            blocks == (-(-widest // size) if has_prefix else -1), f"len_info_cpu: {blocks} blocks of prefixes"
        )
        self.sequences: list[_Sequence] = []
        positions: list[int] = []
        slots: list[int] = []
        for index in range(enc):
            prefix, count = int(given.prefix_len[index]), int(lod[index + 1] - lod[index])
            length = int(kv_lod[index + 1] - kv_lod[index])
            expect(length == prefix + count, f"encoder_kv_lod: {length} is not {prefix} + {count}")
            row = self.tables[given.encoder_batch_map[index]]
            own = self._blocks(self.prefix_tables.reshape(-1, max(blocks, 1))[index], length, size, num_blocks)
            self.sequences.append(
                _Sequence(begin=int(lod[index]), end=int(lod[index + 1]), length=length, blocks=own)
                if has_prefix
                else _Sequence(begin=int(lod[index]), end=int(lod[index + 1]), length=length, blocks=None)
            )
            self._place(positions, slots, row, range(prefix, length), size)
        for index in range(dec):
            cached, length = (
                int(given.decoder_context_len_cache[index]),
                int(given.decoder_context_len[index]),
            )
            begin, end = (total + int(each) for each in dec_lod[index : index + 2])
            expect(cached > 0, "a sequence without anything in the cache does not decode")
            expect(
                length == cached + end - begin, f"decoder_context_len: {length} is not {cached} + {end - begin}"
            )
            row = self.tables[given.decoder_batch_map[index]]
            own = self._blocks(row, length, size, num_blocks)
            self.sequences.append(_Sequence(begin=begin, end=end, length=length, blocks=own))
            self._place(positions, slots, row, range(cached, length), size)
        self.positions, self.slots = np.array(positions, np.intp), np.array(slots, np.intp)
        if self.lineage is Lineage.DEVELOP:
            mapped = [
                check(name, self.given[name], "int32", 1) for name in ("slot_mapping_enc", "slot_mapping_dec")
            ]
            expect(len(mapped[0]) == total, f"slot_mapping_enc has {len(mapped[0])} slots, not {total}")
            used, unused = np.split(mapped[1], [tokens - total])
            expect(bool((unused == -1).all()), f"slot_mapping_dec has slots of no token: {unused}")
            self.slots = np.concatenate([mapped[0], used])
        else:
            offsets = check("cum_offsets", self.given["cum_offsets"], "int32", 1)
            expect(len(offsets) == len(self.tables), f"cum_offsets has {len(offsets)} sequences")

    @staticmethod
    def _blocks(row: NDArray[np.int32], length: int, size: int, limit: int) -> NDArray[np.int32]:
        used = row[: -(-length // size)]
        return used if ((used >= 0) & (used < limit)).all() else np.full(len(used), -1, np.int32)

    @staticmethod
    def _place(
        positions: list[int], slots: list[int], row: NDArray[np.int32], places: range, size: int
    ) -> None:
        for place in places:
            positions.append(place)
            slots.append(int(row[place // size]) * size + place % size)


class _Store:
    """The keys or the values of a layer, ``[blocks, kv_heads, size, head_dim]``."""

    def __init__(self, given: dict[str, Any], name: str, dtype: str) -> None:
        self.name, self.is_int8 = name, dtype == "int8"
        self.memory = memory(given[f"{name}_cache"])
        _, self.kv_heads, self.size, self.head_dim = self.memory.shape
        width = self.kv_heads * self.head_dim
        if self.is_int8:
            letter = name[0]
            scales = check(f"{letter}_scales", given[f"{letter}_scales"], "bfloat16", 1)
            absmax = check(f"{letter}_scales_inv", given[f"{letter}_scales_inv"], "float32", 1)
            expect(scales.shape == absmax.shape == (width,), f"{letter}_scales has {scales.shape}, not {width}")
            is_same = np.isclose(scales * absmax, 127, rtol=1e-2) | (absmax == 0)
            expect(bool(is_same.all()), f"{letter}_scales is not 127 / {letter}_scales_inv")
            self.factors = scales.reshape(self.kv_heads, -1)
            self.steps = absmax.reshape(self.kv_heads, -1) / np.float32(127)

    def write(self, slots: NDArray[np.intp], rows: Floats) -> None:
        expect(bool((slots >= 0).all()), f"{self.name}: a token has no slot")
        if self.is_int8:
            stored: NDArray[Any] = np.rint(rows * self.factors).clip(-127, 127).astype(np.int8)
        else:
            stored = (rows.view(np.uint32) >> 16).astype(np.uint16)
        self.memory[slots // self.size, :, slots % self.size] = stored

    def read(self, blocks: NDArray[np.int32], length: int) -> Floats:
        expect(bool((blocks >= 0).all()), f"{self.name}: the table names no block for some of {length} tokens")
        rows = self.memory[blocks].transpose(0, 2, 1, 3).reshape(-1, self.kv_heads, self.head_dim)[:length]
        if self.is_int8:
            return rows.astype(np.float32) * self.steps
        return (rows.astype(np.uint32) << 16).view(np.float32)


def _rotated(x: Floats, table: Floats, positions: NDArray[np.intp]) -> Floats:
    expect(bool((positions < table.shape[2]).all()), f"positions to {positions.max()} of {table.shape[2]}")
    cosines, sines = (table[part, 0, positions, 0][:, None, :] for part in range(2))
    crossed = np.stack([-x[..., 1::2], x[..., 0::2]], axis=-1).reshape(x.shape)
    turned: Floats = x * cosines + crossed * sines
    return turned


def _attended(queries: Floats, keys: Floats, values: Floats) -> Floats:
    count, heads, head_dim = queries.shape
    groups = heads // keys.shape[1]
    scores = np.einsum("qhd,khd->hqk", queries, np.repeat(keys, groups, 1)) * np.float32(head_dim**-0.5)
    is_after = np.arange(len(keys)) > np.arange(len(keys) - count, len(keys))[:, None]
    scores = np.where(is_after, np.float32(-np.inf), scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    attended: Floats = np.einsum("hqk,khd->qhd", weights, np.repeat(values, groups, 1))
    return attended


# Products and experts


def _weight_only_linear(
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


def _topk_select(gating_logits: Tensor, bias: Tensor, moe_topk: int, apply_norm_weight: bool) -> list[Tensor]:
    expect(apply_norm_weight, "moe_topk_select has normalized weights only")
    logits, correction = check("gating_logits", gating_logits, "float32", 2), check("bias", bias, "float32", 1)
    routing = choose_experts(logits, correction, moe_topk)
    return [PLACE.upload(routing.experts), PLACE.upload(routing.weights)]


def _dispatch(
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


def _expert_ffn(
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


def _combine(
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


def _moe_layer(**given: Any) -> Tensor:
    absent = [name for name, value in given.items() if name.endswith(("bias", "scale")) and value is not None]
    expect(absent == ["gate_correction_bias"], f"w16a16 has no {absent}")
    expect(given["quant_method"] == "w16a16" and given["moe_group"] is False, "w16a16 only")
    x, gate = check("x", given["x"], "bfloat16", 2), check("gate_weight", given["gate_weight"], "float32", 2)
    experts, top = len(gate), given["moe_top_k"]
    ids, weights = _topk_select(PLACE.upload(x @ gate.T), given["gate_correction_bias"], top, True)
    permuted, places, lod, _, _ = _dispatch(
        given["x"], ids, weights, None, list(range(experts)), len(x) * top, "w16a16"
    )
    results = _expert_ffn(
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
    return _combine(results, places, bfloat16(weights.numpy()), len(x), len(x) * top, x.shape[1], top)
