"""The cache of quantized weights: the same numbers, never a damaged or an outdated one, two writers at once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.weights.checkpoints import quantized_cache
from ernie_backend.weights.checkpoints.quantized_cache import QuantizedCache, fingerprint
from ernie_backend.weights.precision import WeightFormat
from ernie_backend.weights.roles import Role, WeightKey
from ernie_kernels.formats import (
    GroupedInt4Weight,
    Int4Weight,
    Int8Weight,
    QuantizedWeight,
    quantize_grouped_int4,
    quantize_int4,
    quantize_int8,
)

SHAPE = (1030, 1024)


@pytest.fixture
def weight() -> Int8Weight:
    return quantize_int8(np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(bytes(range(256)) * 64)
    return directory


def opened(tmp_path: Path, model: Path) -> QuantizedCache:
    return QuantizedCache(tmp_path / "cache", model, model.iterdir())


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def same(found: QuantizedWeight | None, expected: Int8Weight) -> bool:
    return (
        isinstance(found, Int8Weight)
        and np.array_equal(found.codes, expected.codes)
        and np.array_equal(found.scales, expected.scales)
    )


def test_what_was_put_is_there_at_the_next_start(tmp_path: Path, model: Path, weight: Int8Weight) -> None:
    cache = opened(tmp_path, model)
    assert cache.get(WeightKey(Role.QKV, 3), WeightFormat.INT8, SHAPE) is None
    cache.put(WeightKey(Role.QKV, 3), weight)
    again = opened(tmp_path, model)
    assert same(again.get(WeightKey(Role.QKV, 3), WeightFormat.INT8, SHAPE), weight)
    assert again.get(WeightKey(Role.QKV, 2), WeightFormat.INT8, SHAPE) is None
    assert again.get(WeightKey(Role.DOWN, 3), WeightFormat.INT8, SHAPE) is None


@pytest.mark.parametrize("position", [0, 5, 200, 5000, 4096 + SHAPE[0] * SHAPE[1] - 1, -1])
def test_a_changed_byte_is_noticed(tmp_path: Path, model: Path, weight: Int8Weight, position: int) -> None:
    cache = opened(tmp_path, model)
    cache.put(WeightKey(Role.QKV, 0), weight)
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    assert cache.get(WeightKey(Role.QKV, 0), WeightFormat.INT8, SHAPE) is None
    cache.put(WeightKey(Role.QKV, 0), weight)
    assert same(cache.get(WeightKey(Role.QKV, 0), WeightFormat.INT8, SHAPE), weight)


@pytest.mark.parametrize("length", [8, 512, 4096])
def test_what_stands_elsewhere_is_noticed(tmp_path: Path, model: Path, weight: Int8Weight, length: int) -> None:
    cache = opened(tmp_path, model)
    cache.put(WeightKey(Role.QKV, 0), weight)
    (path,) = files(tmp_path)
    content = path.read_bytes()
    first, second, rest = (
        content[4096:][:length],
        content[4096 + length :][:length],
        content[4096 + 2 * length :],
    )
    path.write_bytes(content[:4096] + second + first + rest)
    assert cache.get(WeightKey(Role.QKV, 0), WeightFormat.INT8, SHAPE) is None


def test_the_highest_bit_of_two_words_is_noticed(tmp_path: Path, model: Path, weight: Int8Weight) -> None:
    cache = opened(tmp_path, model)
    cache.put(WeightKey(Role.QKV, 0), weight)
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    content[4096 + 7] ^= 128
    content[4096 + 15] ^= 128
    path.write_bytes(content)
    assert cache.get(WeightKey(Role.QKV, 0), WeightFormat.INT8, SHAPE) is None


@pytest.mark.parametrize("header", [b"0", b"[1]", b'{"shape": 1, "checksum": 0}'])
def test_another_header_is_damage(tmp_path: Path, model: Path, weight: Int8Weight, header: bytes) -> None:
    cache = opened(tmp_path, model)
    cache.put(WeightKey(Role.QKV, 0), weight)
    (path,) = files(tmp_path)
    path.write_bytes(header.ljust(4096) + path.read_bytes()[4096:])
    assert cache.get(WeightKey(Role.QKV, 0), WeightFormat.INT8, SHAPE) is None


@pytest.mark.parametrize("size", [0, 10, 100, 5000])
def test_a_truncated_file_is_noticed(tmp_path: Path, model: Path, weight: Int8Weight, size: int) -> None:
    cache = opened(tmp_path, model)
    cache.put(WeightKey(Role.QKV, 0), weight)
    (path,) = files(tmp_path)
    os.truncate(path, size)
    assert cache.get(WeightKey(Role.QKV, 0), WeightFormat.INT8, SHAPE) is None


def test_another_shape_is_no_hit(tmp_path: Path, model: Path, weight: Int8Weight) -> None:
    cache = opened(tmp_path, model)
    cache.put(WeightKey(Role.QKV, 0), weight)
    assert cache.get(WeightKey(Role.QKV, 0), WeightFormat.INT8, SHAPE[::-1]) is None


@pytest.mark.parametrize("change", ["content", "size", "time", "version"])
def test_outdated_weights_are_not_found_and_removed(
    tmp_path: Path, model: Path, weight: Int8Weight, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path, model).put(WeightKey(Role.QKV, 0), weight)
    source = model / "model.safetensors"
    stat = source.stat()
    if change == "content":
        source.write_bytes(bytes(range(255, -1, -1)) * 64)
        os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "size":
        with source.open("ab") as file:
            file.write(b"more")
        os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "time":
        os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    else:
        monkeypatch.setattr(quantized_cache, "FORMAT_VERSION", 99)
    assert opened(tmp_path, model).get(WeightKey(Role.QKV, 0), WeightFormat.INT8, SHAPE) is None
    assert files(tmp_path) == []


def test_a_write_between_the_samples_is_noticed_though_size_and_time_are_put_back(model: Path) -> None:
    source = model / "model.safetensors"
    source.write_bytes(bytes(1 << 21))
    stat, before = source.stat(), fingerprint([source])
    time.sleep(0.02)  # the kernel's clock of files ticks every few milliseconds
    with source.open("r+b") as file:
        file.seek(20_000)
        file.write(b"x")
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (source.stat().st_size, source.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert fingerprint([source]) != before


def test_fingerprints_do_not_depend_on_the_order_of_files(model: Path) -> None:
    (model / "config.json").write_text("{}")
    assert fingerprint(sorted(model.iterdir())) == fingerprint(sorted(model.iterdir(), reverse=True))


def test_two_servers_at_once(tmp_path: Path, model: Path, weight: Int8Weight) -> None:
    caches = [opened(tmp_path, model) for _ in range(4)]
    barrier = threading.Barrier(len(caches))

    def fill(cache: QuantizedCache) -> None:
        barrier.wait()
        for layer in range(8):
            if cache.get(WeightKey(Role.QKV, layer), WeightFormat.INT8, SHAPE) is None:
                cache.put(WeightKey(Role.QKV, layer), weight)
            assert same(cache.get(WeightKey(Role.QKV, layer), WeightFormat.INT8, SHAPE), weight)

    threads = [threading.Thread(target=fill, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files(tmp_path)) == 8
    assert all(
        same(caches[0].get(WeightKey(Role.QKV, layer), WeightFormat.INT8, SHAPE), weight) for layer in range(8)
    )


def test_a_directory_that_cannot_be_written_costs_only_the_cache(
    tmp_path: Path, model: Path, weight: Int8Weight, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where a directory should be")
    cache = opened(tmp_path, model)
    cache.put(WeightKey(Role.QKV, 0), weight)
    cache.put(WeightKey(Role.QKV, 1), weight)
    assert len(caplog.records) == 1
    assert cache.get(WeightKey(Role.QKV, 0), WeightFormat.INT8, SHAPE) is None


def test_small_weights_are_not_cached(tmp_path: Path, model: Path) -> None:
    opened(tmp_path, model).put(WeightKey(Role.QKV, 0), quantize_int8(np.ones((4, 4), np.float32)))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("fmt", "quantize"),
    [(WeightFormat.INT4, quantize_int4), (WeightFormat.GROUPED_INT4, quantize_grouped_int4)],
)
def test_int4_and_int8_of_every_expert_side_by_side(
    tmp_path: Path,
    model: Path,
    fmt: WeightFormat,
    quantize: Callable[[NDArray[np.float32]], Int4Weight | GroupedInt4Weight],
) -> None:
    shape = (1400, 1501)
    rng = np.random.default_rng(1)
    made = {expert: quantize(rng.standard_normal(shape).astype(np.float32)) for expert in (0, 63)}
    cache = opened(tmp_path, model)
    for expert, int4 in made.items():
        cache.put(WeightKey(Role.EXPERT_DOWN, 2, expert), int4)
    for expert, int4 in made.items():
        key = WeightKey(Role.EXPERT_DOWN, 2, expert)
        assert cache.get(key, WeightFormat.INT8, shape) is None
        found = cache.get(key, fmt, shape)
        assert type(found) is type(int4)
        assert isinstance(found, Int4Weight | GroupedInt4Weight)
        np.testing.assert_array_equal(found.packed, int4.packed)
        np.testing.assert_array_equal(found.scales, int4.scales)
        assert found.inputs == 1501
        assert cache.get(key, fmt, (1400, 1503)) is None
    assert cache.get(WeightKey(Role.EXPERT_DOWN, 2, 1), fmt, shape) is None
