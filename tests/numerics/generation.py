"""Drives a model the way the engine does, without the engine: ragged batches, chunks and block tables.

Every sequence has its blocks scattered over the cache in an order of its own, so that a backend that ignores
the block table cannot pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.models.base import Model
from ernie_backend.models.load import load_model
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_kernels.api import Batch, CacheSpec, Ops
from ernie_kernels.formats import ActivationType
from ernie_kernels.sampling import TokenChoices
from numerics.golden import MediaPrompt

MAX_POSITIONS = 128
BLOCK_SIZE = 4


def load(
    directory: Path,
    ops: Ops,
    dtype: str = "float32",
    quantization: str | None = None,
    activation: ActivationType = ActivationType.FLOAT32,
    max_positions: int = MAX_POSITIONS,
) -> Model:
    config = ModelConfig.from_directory(directory)
    settings = LoadSettings(dtype, quantization, activation, max_positions)
    return load_model(directory, config, ops, settings)


class Driver:
    """Some sequences of one model, each with ``max_positions`` tokens of cache.

    ``cache_dtype``: how the cache stores them; by default the model's. ``prompts``: those with media.
    """

    def __init__(
        self,
        model: Model,
        ops: Ops,
        num_sequences: int,
        block_size: int = BLOCK_SIZE,
        max_positions: int = MAX_POSITIONS,
        cache_dtype: str | None = None,
        prompts: Mapping[int, MediaPrompt] | None = None,
    ) -> None:
        config = model.config
        self._prompts = prompts or {}
        blocks = max_positions // block_size
        spec = CacheSpec(
            blocks * num_sequences,
            block_size,
            config.num_kv_heads,
            config.head_dim,
            cache_dtype or model.cache_dtype,
        )
        scattered = np.random.default_rng(7).permutation(blocks * num_sequences)
        self._model = model
        self._ops = ops
        self._block_size = block_size
        is_static = spec.dtype == "int8"
        self._caches = [
            ops.allocate_cache(replace(spec, scales=scales if is_static else None))
            for scales in model.cache_scales
        ]
        self._blocks = scattered.reshape(num_sequences, blocks).astype(np.int32)
        self._lengths = [0] * num_sequences

    def step(
        self, pieces: dict[int, list[int]], *, all_rows: bool = False, choices: TokenChoices | None = None
    ) -> NDArray[np.float32]:
        """Append tokens to sequences; return logits after each one's last token (``all_rows``: every token)."""
        batch = replace(self._batch(pieces, all_rows), choices=choices)
        media = self._media(pieces)
        logits = self._model.forward(self._ops.upload(batch), self._caches, media).logits
        for sequence, tokens in pieces.items():
            self._lengths[sequence] += len(tokens)
        return logits

    def rewind(self, sequence: int, length: int) -> None:
        """Forget a sequence's tokens from ``length`` on; those before it stay in the cache."""
        self._lengths[sequence] = length

    def _batch(self, pieces: dict[int, list[int]], all_rows: bool) -> Batch:
        counts = [len(tokens) for tokens in pieces.values()]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        contexts = np.array([self._lengths[sequence] for sequence in pieces], np.int32)
        tables = np.full((len(pieces), self._blocks.shape[1]), -1, np.int32)
        for row, (sequence, count) in enumerate(zip(pieces, counts, strict=True)):
            used = -(-(self._lengths[sequence] + count) // self._block_size)
            tables[row, :used] = self._blocks[sequence, :used]
        return Batch(
            token_ids=np.concatenate([*pieces.values()]).astype(np.int32),
            positions=self._positions(pieces),
            query_starts=starts,
            context_lengths=contexts,
            block_tables=tables[:, : max(1, int((tables >= 0).sum(axis=1).max()))],
            logit_rows=np.arange(starts[-1], dtype=np.int32) if all_rows else starts[1:] - 1,
            media_rows=self._rows(pieces, lambda prompt: prompt.is_media),
            vision_rows=self._rows(pieces, lambda prompt: prompt.is_vision),
        )

    def _range(self, sequence: int, tokens: list[int]) -> slice:
        return slice(self._lengths[sequence], self._lengths[sequence] + len(tokens))

    def _positions(self, pieces: dict[int, list[int]]) -> NDArray[np.int32]:
        """Places on three axes if a prompt has media, else on one; an answer goes on after the largest."""
        positions: list[NDArray[np.int64]] = []
        for sequence, tokens in pieces.items():
            new = self._range(sequence, tokens)
            places: NDArray[np.int64] = np.arange(new.start, new.stop)
            if (prompt := self._prompts.get(sequence)) is not None:
                answer = places + prompt.positions.max() + 1 - len(prompt.tokens)
                places = np.tile(answer, (3, 1))
                given = prompt.positions[:, new]
                places[:, : given.shape[1]] = given
            positions.append(np.tile(places, (3, 1)) if self._prompts and places.ndim == 1 else places)
        together: NDArray[np.int32] = np.concatenate(positions, axis=-1).astype(np.int32)
        return together

    def _rows(
        self, pieces: dict[int, list[int]], is_one: Callable[[MediaPrompt], NDArray[np.bool_]]
    ) -> NDArray[np.int32] | None:
        marks = []
        for sequence, tokens in pieces.items():
            marked = np.zeros(len(tokens), np.bool_)
            if (prompt := self._prompts.get(sequence)) is not None:
                given = is_one(prompt)[self._range(sequence, tokens)]
                marked[: len(given)] = given
            marks.append(marked)
        rows = np.flatnonzero(np.concatenate(marks)).astype(np.int32)
        return rows if rows.size else None

    def _media(self, pieces: dict[int, list[int]]) -> Any:
        """The embeddings of the step's media on the device."""
        rows = []
        for sequence, tokens in pieces.items():
            if (prompt := self._prompts.get(sequence)) is not None:
                new = self._range(sequence, tokens)
                before = int(prompt.is_media[: new.start].sum())
                rows.append(prompt.media[before : before + int(prompt.is_media[new].sum())])
        media = np.concatenate(rows) if rows else np.zeros(0, np.float32)
        return self._ops.pack_vector(media) if media.size else None


def generate(
    model: Model,
    ops: Ops,
    prompts: Sequence[list[int] | MediaPrompt],
    num_tokens: int,
    chunk: int | None = None,
    cache_dtype: str | None = None,
) -> tuple[list[list[int]], NDArray[np.float32]]:
    """Continue all prompts greedily in one ragged batch.

    With ``chunk``, prompts are prefilled in pieces of that many tokens; a sequence whose prompt is done decodes
    while the others still prefill, as in the engine.

    Returns:
        The new tokens of each prompt, and the logits ``[S, V]`` after each prompt's last token.
    """
    media = {index: prompt for index, prompt in enumerate(prompts) if isinstance(prompt, MediaPrompt)}
    driver = Driver(model, ops, len(prompts), cache_dtype=cache_dtype, prompts=media)
    pending = [list(prompt.tokens if isinstance(prompt, MediaPrompt) else prompt) for prompt in prompts]
    generated: list[list[int]] = [[] for _ in prompts]
    first_logits = np.zeros((len(prompts), model.config.vocab_size), np.float32)
    while any(len(tokens) < num_tokens for tokens in generated):
        running = [index for index in range(len(prompts)) if len(generated[index]) < num_tokens]
        pieces = {index: pending[index][:chunk] for index in running}
        logits = driver.step(pieces)
        for index, row in zip(running, logits, strict=True):
            pending[index] = pending[index][len(pieces[index]) :]
            if pending[index]:
                continue
            if not generated[index]:
                first_logits[index] = row
            generated[index].append(int(row.argmax()))
            pending[index] = [generated[index][-1]]
    return generated, first_logits


def assert_steps_change_no_bit(
    model: Model, ops: Ops, prompts: Sequence[list[int] | MediaPrompt], cache_dtype: str | None = None
) -> None:
    """Check that prompts have the same tokens and bits alone or together, in one piece or in chunks."""
    together, first_logits = generate(model, ops, prompts, num_tokens=8, cache_dtype=cache_dtype)
    for chunk in (1, 3, 7):
        chunked, logits = generate(model, ops, prompts, num_tokens=8, chunk=chunk, cache_dtype=cache_dtype)
        assert chunked == together
        np.testing.assert_array_equal(logits, first_logits)
    for prompt, tokens, row in zip(prompts, together, first_logits, strict=True):
        alone, logits = generate(model, ops, [prompt], num_tokens=8, cache_dtype=cache_dtype)
        assert alone == [tokens]
        np.testing.assert_array_equal(logits[0], row)


def prompt_logits(
    model: Model,
    ops: Ops,
    prompt: list[int] | MediaPrompt,
    chunk: int | None = None,
    cache_dtype: str | None = None,
) -> NDArray[np.float32]:
    """Return the logits ``[T, V]`` of every prompt token, prefilled alone."""
    media, tokens = ({0: prompt}, prompt.tokens) if isinstance(prompt, MediaPrompt) else ({}, prompt)
    driver = Driver(model, ops, 1, cache_dtype=cache_dtype, prompts=media)
    size = chunk or len(tokens)
    pieces = [tokens[begin : begin + size] for begin in range(0, len(tokens), size)]
    return np.concatenate([driver.step({0: piece}, all_rows=True) for piece in pieces])
