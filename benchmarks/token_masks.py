"""What grammars cost: decoding with and without token masks, and their compilation and masks alone.

    .venv/bin/python benchmarks/token_masks.py

The engine alone, without Triton and HTTP, with the shape of ERNIE-4.5-0.3B and random weights. ``--batch``
answers follow a JSON document through its schema, each from another place on: the masks are those of the
document, whatever the model says. The vocabulary of 103,424 tokens is that of the embedded model, and random
pairs of its pieces. Samples with and without masks take turns; the medians of both are printed, and that of
the ratios of the rounds. ``--cpu-time`` counts processor time of all threads, which other work hardly moves.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from engine_shape import start_shape, submit_random, time_decode
from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.devices.host import usable_cores
from ernie_backend.grammar.compiler import CompiledGrammar, GrammarCompiler
from ernie_backend.grammar.sources import structured_grammar
from ernie_backend.request.sampling import TokenMask
from model_shapes import SHAPES

EMBEDDED = Path(__file__).parent.parent / "model_repository" / "ernie-tiny" / "weights"
VOCAB = 103424
DECODE_PROMPT = 32
EOS = 2
_STRING = {"type": "string"}
SCHEMA = {
    "type": "object",
    "properties": {
        "order_id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{6}$"},
        "status": {"enum": ["new", "paid", "packed", "sent", "returned"]},
        "customer": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 80},
                "email": {"type": ["string", "null"]},
                "address": {
                    "type": "object",
                    "properties": {
                        "street": _STRING,
                        "city": _STRING,
                        "country": {"type": "string", "maxLength": 2},
                    },
                    "required": ["street", "city", "country"],
                    "additionalProperties": False,
                },
            },
            "required": ["name", "email", "address"],
            "additionalProperties": False,
        },
        "items": {
            "type": "array",
            "minItems": 1,
            "maxItems": 50,
            "items": {
                "type": "object",
                "properties": {
                    "sku": _STRING,
                    "title": _STRING,
                    "quantity": {"type": "integer", "minimum": 1, "maximum": 999},
                    "price": {"type": "number"},
                    "tags": {"type": "array", "items": {"enum": ["fragile", "heavy", "cold", "gift"]}},
                },
                "required": ["sku", "title", "quantity", "price", "tags"],
                "additionalProperties": False,
            },
        },
        "note": {"anyOf": [_STRING, {"type": "null"}]},
    },
    "required": ["order_id", "status", "customer", "items", "note"],
    "additionalProperties": False,
}
DOCUMENT = {
    "order_id": "DE-204817",
    "status": "packed",
    "customer": {
        "name": "Ada Lovelace",
        "email": None,
        "address": {"street": "12 St James's Square", "city": "London", "country": "GB"},
    },
    "items": [
        {
            "sku": f"PX-{100 + 7 * number}",
            "title": "A heavy book about engines and the weaving of patterns",
            "quantity": 1 + number,
            "price": 12.5 * number,
            "tags": ["heavy", "gift"][: number % 3],
        }
        for number in range(8)
    ],
    "note": "Please ring twice; the door is behind the garden.",
}


class LargeVocabulary:
    """The embedded model's tokens and random pairs of them, with what a compiler of grammars reads."""

    vocab_size = VOCAB

    def __init__(self) -> None:
        chance, few = random.Random(1), Tokenizer.from_directory(EMBEDDED)
        self.reserved_ids = few.reserved_ids
        self._tokens = [few.token_bytes(token_id) for token_id in range(few.vocab_size)]
        words = [token for token in self._tokens if token.decode(errors="replace").strip().isalpha()]
        known = set(self._tokens)
        while len(self._tokens) < VOCAB:
            pair = chance.choice(words) + chance.choice(words).strip()
            if pair not in known:
                known.add(pair)
                self._tokens.append(pair)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for."""
        return self._tokens[token_id]

    def divide(self, text: bytes) -> Iterator[int]:
        """Yield the tokens of a text: the longest each time."""
        ids = {
            token: token_id for token_id, token in enumerate(self._tokens) if token_id not in self.reserved_ids
        }
        longest = max(map(len, ids))
        while text:
            token = next(text[:size] for size in range(longest, 0, -1) if text[:size] in ids)
            yield ids[token]
            text = text[len(token) :]


class PlayedMask:
    """The mask of an answer that follows a document, whatever tokens are chosen."""

    def __init__(self, mask: TokenMask, token_ids: Iterable[int]) -> None:
        self._mask = mask
        self._token_ids = iter(token_ids)

    @property
    def is_complete(self) -> bool:
        """Whether the document ends here."""
        return self._mask.is_complete

    def fill(self, mask: NDArray[np.uint32], /) -> None:
        """Fill the mask of the document's next token."""
        self._mask.fill(mask)

    def accept(self, _token_id: int, /) -> None:
        """Go on by a token of the document."""
        self._mask.accept(next(self._token_ids))

    def rollback(self, num_tokens: int, /) -> None:
        """Do nothing: there are no drafts."""


class Decoding:
    """An engine, and the answers that it decodes with and without masks."""

    def __init__(
        self, arguments: argparse.Namespace, compiled: Callable[[], CompiledGrammar], document: list[int]
    ) -> None:
        self._batch, self._steps = arguments.batch, arguments.tokens
        self._compiled, self._document = compiled, document
        self._clock = time.process_time if arguments.cpu_time else time.perf_counter
        self._started = start_shape(
            arguments.shape,
            quantization=arguments.quantization,
            threads=str(arguments.threads),
            max_num_seqs="64",
            max_model_len="4096",
            num_gpu_blocks_override="256",
        )

    def measure(self, *, has_masks: bool) -> float:
        """Return output tokens a second."""
        names = [f"r{index}" for index in range(self._batch)]
        for index, name in enumerate(names):
            request = submit_random(self._started, name, DECODE_PROMPT, 4 * self._steps)
            if has_masks:
                request.sequence.token_mask = self._mask(index / self._batch)
        taken = time_decode(self._started.engine, names, self._steps, self._clock)
        return float(self._batch * self._steps / taken)

    def _mask(self, share: float) -> PlayedMask:
        """Return a mask that begins behind a share of the document, as far as enough of it is left."""
        begin = int(share * (len(self._document) - 2 * self._steps))
        mask = self._compiled().start()
        for token_id in self._document[:begin]:
            mask.accept(token_id)
        return PlayedMask(mask, self._document[begin:])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.3b")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--quantization", default="wint8")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32, help="steps of a sample")
    parser.add_argument("--cpu-time", action="store_true", help="processor time of all threads")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    vocabulary = LargeVocabulary()
    document = list(vocabulary.divide(json.dumps(DOCUMENT).encode()))
    compiler = GrammarCompiler(cast(Tokenizer, vocabulary), {EOS})
    compiled = partial(compiler.compile, structured_grammar({"json": SCHEMA}, {}).source())
    for title in ("with the start of the compiler", "that was compiled before"):
        start = time.perf_counter()
        grammar = compiled()
        print(f"a schema {title}: {(time.perf_counter() - start) * 1e3:.1f} ms")
    print_masks(grammar, document)
    decoding = Decoding(arguments, compiled, document)
    for has_masks in (True, False):
        decoding.measure(has_masks=has_masks)
    print(
        f"ERNIE-4.5-{arguments.shape.upper()}'s shape, {arguments.quantization}, {arguments.threads} threads;"
        f" load of the machine {os.getloadavg()[0]:.1f}; medians of {arguments.rounds} rounds",
        flush=True,
    )
    speeds: dict[bool, list[float]] = {True: [], False: []}
    for index in range(arguments.rounds):
        for has_masks in (index % 2 == 0, index % 2 == 1):
            speeds[has_masks].append(decoding.measure(has_masks=has_masks))
    ratios = [masked / plain for masked, plain in zip(speeds[True], speeds[False], strict=True)]
    masked, plain = (statistics.median(speeds[has_masks]) for has_masks in (True, False))
    print(
        f"decode {arguments.batch}: with masks {masked:.1f} tok/s, without {plain:.1f}, "
        f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


def print_masks(grammar: CompiledGrammar, document: list[int]) -> None:
    """Print how long each mask of the document takes to fill."""
    mask, words, taken = grammar.start(), np.zeros(-(-VOCAB // 32), np.uint32), []
    for token_id in document:
        start = time.perf_counter()
        mask.fill(words)
        taken.append((time.perf_counter() - start) * 1e6)
        mask.accept(token_id)
    rare = sorted(taken)[int(0.99 * len(taken))]
    print(f"{len(taken)} masks: median {statistics.median(taken):.0f} us, 99 % {rare:.0f} us")


if __name__ == "__main__":
    main()
