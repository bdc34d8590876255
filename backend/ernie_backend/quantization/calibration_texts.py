"""The texts that calibration runs over, as token ids.

A ``.jsonl`` file has a JSON string (a text) or a JSON list of token ids in each line; any other file has a text
in each line.
"""

from __future__ import annotations

import json
from pathlib import Path

from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.errors import StartError

LONGEST_TEXT = 1024
"""Tokens of a text that are used; attention over more would take gigabytes."""

MOST_TOKENS = 65536
"""Tokens of all texts: their hidden states take 2 GiB in a model of 8,192."""


def read_texts(path: Path, model: Path, config: ModelConfig) -> list[list[int]]:
    """Return the texts in ``path``, each cut to ``LONGEST_TEXT`` tokens.

    Args:
        path: the file.
        model: directory of the model, whose tokenizer is read if there are texts.
        config: the model's sizes.

    Raises:
        StartError: the file cannot be read or is empty, a line is wrong, or there are too many tokens.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise StartError(f"{path} is not text in UTF-8: {error}") from error
    if not lines:
        raise StartError(f"{path} is empty; give a text in each line")
    entries = [_entry(path, number, line) for number, line in enumerate(lines, 1)]
    tokenizer = Tokenizer.from_directory(model) if any(isinstance(entry, str) for entry in entries) else None
    longest = min(LONGEST_TEXT, config.max_position_embeddings)
    texts = []
    for number, entry in enumerate(entries, 1):
        ids = list(tokenizer.encode(entry)) if tokenizer and isinstance(entry, str) else entry
        texts.append(_checked_ids(f"{path}:{number}", ids, config.vocab_size)[:longest])
    count = sum(map(len, texts))
    if count > MOST_TOKENS:
        raise StartError(
            f"{path} has texts of {count} tokens (each cut to {longest}), and {MOST_TOKENS} are the most that "
            "are measured; give fewer lines: some dozens are enough"
        )
    return texts


def _entry(path: Path, number: int, line: str) -> object:
    if path.suffix != ".jsonl":
        return line
    try:
        return json.loads(line)
    except ValueError as error:
        raise StartError(f"{path}:{number} is not JSON: {error}") from error


def _checked_ids(where: str, ids: object, vocab_size: int) -> list[int]:
    if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
        raise StartError(f"{where} must be a text, or a list of token ids that is not empty")
    wrong = [token for token in ids if not 0 <= token < vocab_size]
    if wrong:
        raise StartError(f"{where} has token id {wrong[0]}; the vocabulary has 0 to {vocab_size - 1}")
    return ids
