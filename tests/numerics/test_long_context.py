"""Contexts up to 131,072 tokens on the dense golden, in a copy whose config allows them.

4,096 tokens against the oracle; 8,192, and the longest, which takes minutes, in the full tier. Chunks of other
sizes, and decoding, are held to the same bits.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ernie_backend.planning.units import format_bytes
from ernie_backend.service.start import start_engine
from ernie_kernels.api import CACHE_DTYPES, CacheSpec, RotarySpec
from ernie_kernels.rotary import rotary_table
from numerics.backends import BACKENDS, make_ops, to_host
from numerics.generation import Driver, load
from numerics.golden import DIRECTORIES, LOGITS_TOLERANCE, Floats, max_difference
from numerics.ops_cases import Layout, make_batch, with_fields
from numerics.oracle import Oracle

LONGEST = 131072
BLOCK_SIZE = 64
MIB = 1 << 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("long") / "dense"
    shutil.copytree(DIRECTORIES["hf"], directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"max_position_embeddings": LONGEST}))
    return directory


def text(count: int) -> list[int]:
    tokens: list[int] = np.random.default_rng(3).integers(3, 640, count).tolist()
    return tokens


class LongSequence:
    """One sequence on the C++ kernels."""

    def __init__(self, checkpoint: Path, max_positions: int) -> None:
        ops = make_ops("cpu-avx2") if "cpu-avx2" in BACKENDS else make_ops("cpu-scalar")
        model = load(checkpoint, ops, max_positions=max_positions)
        self._driver = Driver(model, ops, 1, BLOCK_SIZE, max_positions)

    def append(self, tokens: list[int], chunk: int) -> Floats:
        """Append ``tokens`` in chunks; return the logits after the last one of each chunk."""
        pieces = [tokens[start : start + chunk] for start in range(0, len(tokens), chunk)]
        return np.concatenate([self._driver.step({0: piece}) for piece in pieces])

    def rewind(self, length: int) -> None:
        self._driver.rewind(0, length)


def check_invariance(sequence: LongSequence, tokens: list[int], tail: int) -> None:
    """The last ``tail`` tokens, in the cache already, again in other chunks and one by one: the same bits."""
    start = len(tokens) - tail
    sequence.rewind(start)
    last = sequence.append(tokens[start:], tail)[-1]
    for chunk in (509, 64):
        sequence.rewind(start)
        np.testing.assert_array_equal(sequence.append(tokens[start:], chunk)[-1], last)
    sequence.rewind(len(tokens) - 8)
    np.testing.assert_array_equal(sequence.append(tokens[-8:], 1)[-1], last)


@pytest.mark.parametrize("length", [4096, pytest.param(8192, marks=pytest.mark.full)])
def test_the_oracle_has_the_same_logits(checkpoint: Path, length: int) -> None:
    tokens = text(length)
    sequence = LongSequence(checkpoint, length)
    logits = sequence.append(tokens, 2048)
    np.testing.assert_array_equal(LongSequence(checkpoint, length).append(tokens, 509)[-1], logits[-1])
    check_invariance(sequence, tokens, 1500)
    expected = Oracle.read(checkpoint).logits(tokens)[2047::2048]
    assert max_difference(logits, expected) <= LOGITS_TOLERANCE


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_131000_tokens(checkpoint: Path) -> None:
    tokens = text(131000)
    sequence = LongSequence(checkpoint, LONGEST)
    logits = sequence.append(tokens, 2048)
    assert np.isfinite(logits).all()
    check_invariance(sequence, tokens, 1500)
    following = sequence.append(text(72), 1)  # up to the very last position
    sequence.rewind(len(tokens))
    np.testing.assert_array_equal(sequence.append(text(72), 72)[-1], following[-1])


def test_rotary_tables_at_the_last_positions() -> None:
    """The table of a real head against 80-bit floats: nothing but the rounding to float32."""
    table = rotary_table(RotarySpec(128, LONGEST, 500000.0))
    exponents = -np.arange(0, 128, 2).astype(np.longdouble) / 128
    positions = np.arange(LONGEST - 64, LONGEST).astype(np.longdouble)
    angles = positions[:, None] * np.longdouble(500000) ** exponents
    for found, exact in ((table.cosines, np.cos(angles)), (table.sines, np.sin(angles))):
        np.testing.assert_allclose(found[-64:].astype(np.longdouble), exact, rtol=0, atol=2.0**-25 + 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("is_interleaved", [True, False])
def test_attention_at_the_last_position(backend: str, is_interleaved: bool) -> None:
    """A token at position 131071 attends to one at 0 and to itself, against float64."""
    ops, width = make_ops(backend), 16
    qkv = np.random.default_rng(4).standard_normal((2, 3 * width)).astype(np.float32)
    batch = make_batch(Layout(((0, 2),), 16, 1), np.zeros((1, 1), np.int32))
    far = with_fields(batch, positions=np.array([0, LONGEST - 1], np.int32))
    rotary = ops.pack_rotary(RotarySpec(width, LONGEST, 500000.0, is_interleaved))
    cache = ops.allocate_cache(CacheSpec(1, 16, 1, width, "float32"))
    source: Any = qkv if backend != "paddle" else ops.pack_vector(qkv)
    found = to_host(ops.attention(source, rotary, cache, ops.upload(far)))[1]
    angles = (LONGEST - 1) * 500000.0 ** (-np.arange(0, width, 2) / width)

    def pairs(x: Floats) -> Any:
        shaped = x.astype(np.float64).reshape((-1, 2) if is_interleaved else (2, -1))
        return shaped[:, 0] + 1j * shaped[:, 1] if is_interleaved else shaped[0] + 1j * shaped[1]

    query, near = (
        pairs(qkv[1, part]) * np.exp(1j * angles) for part in (slice(width), slice(width, 2 * width))
    )
    keys = np.stack([pairs(qkv[0, width : 2 * width]), near])
    scores = (keys * query.conj()).real.sum(axis=1) / np.sqrt(width)
    weights = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(found, weights @ qkv[:, 2 * width :], rtol=0, atol=2e-6)


GROWTH_OF_A_CACHE = """
import sys
import numpy as np
from ernie_backend.devices.host import resident_bytes
from ernie_kernels.api import Batch, CacheSpec, RotarySpec
from ernie_kernels.cpu import CpuOps

num_blocks, block_size, dtype = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
ops = CpuOps(1, "scalar")
rotary = ops.pack_rotary(RotarySpec(128, block_size, 500000.0))
before = resident_bytes()
cache = ops.allocate_cache(CacheSpec(num_blocks, block_size, 2, 128, dtype))
print(resident_bytes() - before)
starts = np.arange(0, block_size, 16, dtype=np.int32)  # a token for each page of 16
count = len(starts)
qkv = np.ones((count, 3 * 2 * 128), np.float32)
for block in range(num_blocks):
    table = np.full((count, 1), block, np.int32)
    batch = Batch(starts, starts, np.arange(count + 1, dtype=np.int32), starts, table, starts[:0])
    ops.attention(qkv, rotary, cache, ops.upload(batch))
print(resident_bytes() - before)
"""


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_a_cache_takes_the_memory_that_its_spec_says_once_it_is_used(dtype: str) -> None:
    """In a process of its own: here, what other tests leave behind may be freed at any time."""
    spec = CacheSpec(LONGEST // BLOCK_SIZE, BLOCK_SIZE, 2, 128, dtype)
    command = [sys.executable, "-c", GROWTH_OF_A_CACHE, str(spec.num_blocks), str(BLOCK_SIZE), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    reserved, used = map(int, done.stdout.split())
    predicted = spec.bytes_per_block * spec.num_blocks
    assert reserved < 2 * 2 * MIB + MIB, (
        "arrays that are smaller than a huge page, those of scales, are written"
    )
    assert predicted - MIB <= used <= predicted + 4 * 2 * MIB + MIB, "up to a huge page for each of four arrays"


@pytest.mark.parametrize(("dtype", "bytes_per_token"), [("auto", 3 * 2 * 2 * 32 * 2), ("int8", 3 * 2 * 2 * 36)])
def test_the_engine_holds_one_request_of_131072_tokens(
    checkpoint: Path, dtype: str, bytes_per_token: int, caplog: pytest.LogCaptureFixture
) -> None:
    parameters = {
        "model": str(checkpoint),
        "device": "cpu",
        "threads": "1",
        "kv_cache_dtype": dtype,
        "max_model_len": str(LONGEST),
        "max_num_seqs": "1",
    }
    with caplog.at_level("INFO"):
        description = start_engine(parameters).ready.description
    assert (description.max_model_len, description.kv_blocks) == (LONGEST, LONGEST // 64)
    assert description.kv_cache_dtype == ("bfloat16" if dtype == "auto" else dtype)
    cache_line = next(line for line in caplog.messages if "KV cache" in line)
    assert cache_line.endswith(format_bytes(bytes_per_token * LONGEST))
