"""What FastDeploy's attention must know of a step, made on the host from our ``Batch`` alone.

FastDeploy computes the same by its op ``get_infer_param``, which waits for the card and copies the lengths
back; here they never left the host. Its names are kept. The rows of a step are those of all sequences that it
calls encoder (which fill in their prompt), then those of all that it calls decoder. A sequence decodes if it
has something in the cache and one new token, or several that it needs all logits of, since they are drafts; so
the first chunk of a prompt never does, however short it is. Where a sequence that decodes has several tokens,
``block_attn`` takes the branch that it has for speculation.

Read in custom_ops/xpu_ops/src/ops of PaddlePaddle/FastDeploy: get_infer_param.cc at 8a9fd7bd and 0e6ce6fc,
block_attn.cc at e9a40218, block_attn_fused.cc at ba8a1245, block_attn_spliced.cc at 1226b271.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.api import Batch
from ernie_kernels.batch_checks import check_indices

Indices = NDArray[np.int32]
Sequences = NDArray[np.intp]
"""Numbers of sequences of the batch."""


@dataclass(frozen=True)
class StepLengths:
    """Which rows belong to whom, all int32; S sequences, of which E fill in their prompt and D decode.

    Arrays of sequences have S entries, of which the first E or D count; the sums before them S + 1.

    Attributes:
        encoder_seq_lod: sums of the new tokens.
        decoder_seq_lod: sums of the new tokens.
        encoder_kv_lod: sums of cached and new tokens.
        encoder_batch_map: rows of the block table.
        decoder_context_len: cached and new tokens.
        decoder_context_len_cache: cached tokens.
        decoder_batch_map: rows of the block table.
        prefix_len: cached tokens of those that fill in their prompt.
    """

    encoder_seq_lod: Indices
    decoder_seq_lod: Indices
    encoder_kv_lod: Indices
    encoder_batch_map: Indices
    decoder_context_len: Indices
    decoder_context_len_cache: Indices
    decoder_batch_map: Indices
    prefix_len: Indices

    def arrays(self) -> dict[str, Indices]:
        """Return the arrays by FastDeploy's names."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True)
class StepDescriptor:
    """A step as FastDeploy's attention sees it.

    Attributes:
        batch: the step with its rows in FastDeploy's order: tokens, positions, and whatever names rows. Its
            sequences are those that have rows, in that order too, with their rows of the block table.
        lengths: which rows belong to whom.
        block_tables: int32 ``[S, B]`` of all sequences, padded with -1.
        prefix_block_tables: int32 ``[S, P]``, the blocks of those that fill in their prompt, in their order;
            all -1 if none of them has cached tokens.
        len_info: int32 ``[7]``: E, D, rows of the E, their most new tokens, their most tokens, P (-1 if none
            has cached tokens), most new tokens of the D.
        slot_mapping_enc: int32, the cache slot of each of the E's rows.
        slot_mapping_dec: int32, the cache slot of each of the D's rows; at least S, -1 beyond.
        table_rows: int32 ``[T]``, the row of the block table of each of the step's rows.
        places: int32 ``[T]``, their places in their sequences.
    """

    batch: Batch
    lengths: StepLengths
    block_tables: Indices
    prefix_block_tables: Indices
    len_info: Indices
    slot_mapping_enc: Indices
    slot_mapping_dec: Indices
    table_rows: Indices
    places: Indices


def describe_step(
    batch: Batch, block_size: int, num_blocks: int, most_decoded: int = 1, *, has_tables: bool = False
) -> StepDescriptor:
    """Describe ``batch`` over a cache of ``num_blocks`` blocks of ``block_size`` tokens.

    Args:
        batch: one that ``check_batch`` accepts.
        block_size: tokens of a block.
        num_blocks: of the cache.
        most_decoded: new tokens with which a sequence that verifies drafts still decodes.
        has_tables: whether each sequence has a rotary table of its own, which holds its positions.

    Raises:
        ValueError: a block table is too short for its sequence, or names a block that does not exist; or,
            without tables, a position is not the token's place in its sequence, which is all that the kernels
            know.
    """
    counts, cached = np.diff(batch.query_starts), batch.context_lengths
    shifts = np.repeat(cached - batch.query_starts[:-1], counts)
    places = (np.arange(len(batch.token_ids)) + shifts).astype(np.int32)
    if not has_tables and not np.array_equal(batch.positions, places):
        raise ValueError("batch.positions must be the places of the tokens in their sequences")
    _check_blocks(batch, counts + cached, block_size, num_blocks)
    encoders, decoders = _roles(batch, counts, most_decoded)
    order = np.concatenate([encoders, decoders])
    rows = _rows(batch.query_starts, order)
    len_info = _len_info(counts, cached, encoders, decoders, block_size)
    tables, size = batch.block_tables, len(counts)
    return StepDescriptor(
        batch=_reordered(batch, order, rows),
        lengths=_lengths(counts, cached, encoders, decoders),
        block_tables=tables,
        prefix_block_tables=_prefix_tables(
            tables[encoders], (counts + cached)[encoders], size, int(len_info[5]), block_size
        ),
        len_info=len_info,
        slot_mapping_enc=_slots(encoders, counts, cached, tables, block_size),
        slot_mapping_dec=_slots(decoders, counts, cached, tables, block_size, size),
        table_rows=np.repeat(order, counts[order]).astype(np.int32),
        places=places[rows],
    )


def _roles(batch: Batch, counts: Indices, most_decoded: int) -> tuple[Sequences, Sequences]:
    """Return the sequences that fill in their prompt, and those that decode; those without rows are neither."""
    owners = np.searchsorted(batch.query_starts[:-1], batch.logit_rows, side="right") - 1
    is_drafted = (np.bincount(owners, minlength=len(counts)) == counts) & (counts <= most_decoded)
    is_decoder = (batch.context_lengths > 0) & ((counts == 1) | (is_drafted & (counts > 0)))
    return np.flatnonzero((counts > 0) & ~is_decoder), np.flatnonzero(is_decoder)


def _lengths(counts: Indices, cached: Indices, encoders: Sequences, decoders: Sequences) -> StepLengths:
    size = len(counts)
    return StepLengths(
        encoder_seq_lod=_sums(counts[encoders], size),
        decoder_seq_lod=_sums(counts[decoders], size),
        encoder_kv_lod=_sums((counts + cached)[encoders], size),
        encoder_batch_map=_padded(encoders, size),
        decoder_context_len=_padded((counts + cached)[decoders], size),
        decoder_context_len_cache=_padded(cached[decoders], size),
        decoder_batch_map=_padded(decoders, size),
        prefix_len=_padded(cached[encoders], size),
    )


def _len_info(
    counts: Indices, cached: Indices, encoders: Sequences, decoders: Sequences, block_size: int
) -> Indices:
    widest = _largest((counts + cached)[encoders])
    blocks = -(-widest // block_size) if cached[encoders].any() else -1
    num_rows, most_new = int(counts[encoders].sum()), _largest(counts[encoders])
    of_decoders = _largest(counts[decoders])
    return np.array([len(encoders), len(decoders), num_rows, most_new, widest, blocks, of_decoders], np.int32)


def _check_blocks(batch: Batch, lengths: Indices, block_size: int, num_blocks: int) -> None:
    needed, width = -(-lengths // block_size), batch.block_tables.shape[1]
    if needed.max() > width:
        raise ValueError(
            f"batch.block_tables has {width} blocks of {block_size} tokens, "
            f"too short for {lengths.max()} tokens"
        )
    is_used = np.arange(width) < needed[:, None]
    check_indices("batch.block_tables", batch.block_tables[is_used], num_blocks)


def _rows(starts: Indices, sequences: Sequences) -> NDArray[np.intp]:
    spans = [np.arange(starts[sequence], starts[sequence + 1]) for sequence in sequences]
    return np.concatenate(spans) if spans else np.zeros(0, np.intp)


def _reordered(batch: Batch, sequences: Sequences, rows: NDArray[np.intp]) -> Batch:
    """Return the step with only these sequences, whose rows these are; rows that are named are named anew."""
    new_row = np.argsort(rows).astype(np.int32)
    counts = np.diff(batch.query_starts)[sequences]
    return replace(
        batch,
        token_ids=batch.token_ids[rows],
        positions=batch.positions[..., rows],
        query_starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        context_lengths=batch.context_lengths[sequences],
        block_tables=batch.block_tables[sequences],
        logit_rows=new_row[batch.logit_rows],
        media_rows=None if batch.media_rows is None else new_row[batch.media_rows],
        vision_rows=None if batch.vision_rows is None else np.sort(new_row[batch.vision_rows]),
    )


def _prefix_tables(tables: Indices, lengths: Indices, size: int, blocks: int, block_size: int) -> Indices:
    compact = np.full((size, max(blocks, 1)), -1, np.int32)
    for row, length in enumerate(lengths if blocks > 0 else ()):
        used = -(-int(length) // block_size)
        compact[row, :used] = tables[row, :used]
    return compact


def _slots(
    sequences: Sequences,
    counts: Indices,
    cached: Indices,
    tables: Indices,
    block_size: int,
    least: int = 0,
) -> Indices:
    parts = [np.zeros(0, np.int32)]
    for sequence in sequences:
        places = np.arange(cached[sequence], cached[sequence] + counts[sequence], dtype=np.int32)
        parts.append(tables[sequence, places // block_size] * block_size + places % block_size)
    slots = np.concatenate(parts).astype(np.int32)
    return np.concatenate([slots, np.full(max(0, least - len(slots)), -1, np.int32)])


def _sums(lengths: Indices, size: int) -> Indices:
    """Return sums of the lengths before each of ``size`` sequences, and of all; absent ones add nothing."""
    return np.concatenate([[0], np.cumsum(_padded(lengths, size))]).astype(np.int32)


def _padded(values: NDArray[np.integer[Any]], size: int) -> Indices:
    padded = np.zeros(size, np.int32)
    padded[: len(values)] = values
    return padded


def _largest(values: Indices) -> int:
    return int(values.max(initial=0))
