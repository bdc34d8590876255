"""``block_attn``: positions, slots and contexts from the lods, and attention over the paged cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.fastdeploy import limits as vendor
from ernie_kernels.fastdeploy.library import Lineage
from ernie_kernels.formats import round_to_bfloat16
from fakes.fastdeploy.places import check
from fakes.paddle_bfloat16 import Floats, Tensor, bfloat16, expect, memory

LENGTHS = (
    *("encoder_seq_lod", "decoder_seq_lod", "encoder_kv_lod", "encoder_batch_map", "decoder_context_len"),
    *("decoder_context_len_cache", "decoder_batch_map", "prefix_len"),
)


def block_attn(lineage: Lineage, given: dict[str, Any]) -> Tensor:
    step = _Step(lineage, given)
    qkv = check("qkv", given["qkv"], "bfloat16", 2)
    cache_dtype = str(given["key_cache"].dtype).removeprefix("paddle.")
    expect(cache_dtype in ("bfloat16", "int8"), f"key_cache is {cache_dtype}; bfloat16 or int8")
    for name in ("key_cache", "value_cache"):
        check(name, given[name], cache_dtype, 4)
    _, kv_heads, size, head_dim = given["key_cache"].shape
    expect(size in vendor.BLOCK_SIZES, f"key_cache has blocks of {size} tokens: its axes are others")
    heads = qkv.shape[1] // head_dim - 2 * kv_heads
    expect(
        heads > 0 and heads % kv_heads == 0, f"qkv of {qkv.shape[1]} has no heads for {kv_heads} of the cache"
    )
    step.check(len(qkv), size, given["key_cache"].shape[0])
    rotary = _Rotary(lineage, given, head_dim)
    rotary.check(step, is_int8=cache_dtype == "int8")
    parts = qkv.reshape(len(qkv), -1, head_dim)
    queries, keys = (
        round_to_bfloat16(rotary.rotated(each, step))
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


MOST_SPECULATED = 6
"""FastDeploy has at most five drafts (config.py); what the closed kernel can do was not read."""


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
        self.is_speculative = bool(dec_lod[dec] != dec)
        self.most_decoded = int(max(np.diff(dec_lod[: dec + 1]), default=0))
        expect(longest == max(np.diff(lod[: enc + 1]), default=0), f"len_info_cpu: longest chunk {longest}")
        expect(widest == max(np.diff(kv_lod[: enc + 1]), default=0), f"len_info_cpu: longest context {widest}")
        if self.lineage is not Lineage.V2_3:
            most = self.most_decoded
            expect(self.info[6] == most, f"len_info_cpu: most decoded {self.info[6]}, not {most}")
        has_prefix = self.has_prefix = bool((given.prefix_len[:enc] > 0).any())
        expect(
            blocks == (-(-widest // size) if has_prefix else -1), f"len_info_cpu: {blocks} blocks of prefixes"
        )
        self.sequences: list[_Sequence] = []
        positions: list[int] = []
        table_rows: list[int] = []
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
            table_rows += [int(given.encoder_batch_map[index])] * count
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
            table_rows += [int(given.decoder_batch_map[index])] * (end - begin)
        self.positions, self.slots = np.array(positions, np.intp), np.array(slots, np.intp)
        self.table_rows = np.array(table_rows, np.intp)
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


class _Rotary:
    """The angles of each row: of its place, with ``rope_3d`` in the table of its row of the block table."""

    def __init__(self, lineage: Lineage, given: dict[str, Any], head_dim: int) -> None:
        self.lineage, self.is_3d, self.head_dim = lineage, given["rope_3d"], head_dim
        table = check("rotary_embs", given["rotary_embs"], "float32", 6 if self.is_3d else 5)
        self.tables = table if self.is_3d else table[None]
        width = table.shape[-1]
        if lineage is Lineage.V2_3:
            self.style = given["pos_emb_type"]
        elif given["use_neox_rotary_style"]:
            self.style = "NEOX"
        else:
            self.style = "HALF_HEAD_DIM" if width == head_dim // 2 else "NORMAL"
        expected = {"NORMAL": head_dim, "HALF_HEAD_DIM": head_dim // 2, "NEOX": head_dim}[self.style]
        expect(
            self.tables.shape[1:3] == (2, 1) and (self.tables.shape[4], width) == (1, expected),
            f"rotary_embs is {table.shape}; {self.style} is [2, 1, L, 1, {expected}], for each sequence if 3-D",
        )

    def check(self, step: _Step, *, is_int8: bool) -> None:
        expect((self.style == "HALF_HEAD_DIM") <= self.is_3d, "HALF_HEAD_DIM is for 3-D tables")
        places, length = step.positions, self.tables.shape[3]
        expect(bool((places < length).all()), f"positions to {places.max()} of {length}")
        if self.is_3d:
            rows, count = step.table_rows, len(self.tables)
            expect(bool((rows < count).all()), f"sequence {rows.max()} has no rotary table of {count}")
        if step.is_speculative:
            in_order = self.lineage is not Lineage.V2_3 and self.style != "NEOX"
            expect(in_order, "the branch for speculation reads the queries from the step's first row on")
            expect(
                step.most_decoded <= MOST_SPECULATED, f"{step.most_decoded} tokens of a sequence that decodes"
            )
        if self.style == "NEOX":
            expect(not is_int8, "split_neox_cache_kv_encoder writes no int8 cache")
            chunks = step.has_prefix and self.lineage is not Lineage.DEVELOP
            expect(not chunks, f"split_neox_cache_kv_encoder of {self.lineage.value} starts at place 0")

    def rotated(self, x: Floats, step: _Step) -> Floats:
        row = step.table_rows if self.is_3d else np.zeros_like(step.table_rows)
        cosines, sines = (self.tables[row, part, 0, step.positions, 0][:, None, :] for part in range(2))
        if self.style == "HALF_HEAD_DIM":
            cosines, sines = (np.repeat(each, 2, axis=-1) for each in (cosines, sines))
        if self.style == "NEOX":
            first, second = np.split(x, 2, axis=-1)
            crossed = np.concatenate([-second, first], axis=-1)
        else:
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
