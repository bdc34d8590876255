"""One safetensors file: what is read, and that nothing wrong in a file is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.errors import StartError
from ernie_backend.weights.checkpoints.safetensors_reader import SafetensorsFile
from support.checkpoints.safetensors_writer import write_raw, write_tensors


def entry(begin: Any, end: Any, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_tensors_come_back_as_written(tmp_path: Path) -> None:
    written: dict[str, NDArray[Any]] = {
        "bits": np.arange(6, dtype=np.uint16).reshape(2, 3),
        "halves": np.linspace(-1, 1, 4, dtype=np.float16),
        "floats": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 2, 2),
        "codes": np.arange(-3, 3, dtype=np.int8),
        "empty": np.zeros((0, 4), np.float32),
    }
    write_tensors(tmp_path / "a.safetensors", written)
    file = SafetensorsFile(tmp_path / "a.safetensors")
    assert set(file.entries) == set(written)
    read = {name: file.tensor(name) for name in written}
    file.close()
    for name, values in written.items():
        assert read[name].dtype == values.dtype
        np.testing.assert_array_equal(read[name], values)
        assert not read[name].flags.writeable


def mapped_bytes(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    for block in Path("/proc/self/smaps").read_text().split("VmFlags"):
        if str(path) in block:
            return int(block.split("Rss:")[1].split()[0]) * 1024
    raise AssertionError(f"{path} is not mapped")


def test_what_was_read_takes_memory_until_it_is_forgotten(tmp_path: Path) -> None:
    path, numbers = tmp_path / "a.safetensors", np.arange(1 << 20, dtype=np.float32)
    write_tensors(path, {"a": numbers})
    file = SafetensorsFile(path)
    tensor = file.tensor("a")
    np.testing.assert_array_equal(tensor, numbers)
    assert mapped_bytes(path) >= numbers.nbytes
    file.forget()
    assert mapped_bytes(path) == 0
    np.testing.assert_array_equal(tensor, numbers)
    file.close()


def test_other_types_may_be_present_but_not_read(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"steps": np.arange(3)})
    file = SafetensorsFile(tmp_path / "a.safetensors")
    with pytest.raises(StartError, match=r"steps .*I64"):
        file.tensor("steps")
    file.close()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"1234", "4 bytes"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "header"),
        ((100).to_bytes(8, "little") + b"{}", "108"),
        ((2).to_bytes(8, "little") + b"{]", "malformed"),
        ((2).to_bytes(8, "little") + b"[]", "malformed"),
        ((2).to_bytes(8, "little") + b"\xff\xff", "malformed"),
    ],
)
def test_wrong_files(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(StartError) as caught:
        SafetensorsFile(tmp_path / "a.safetensors")
    assert complaint in caught.value.message
    assert str(tmp_path / "a.safetensors") in caught.value.message


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, "overlaps"),
        ({"a": entry(8, 0)}, "overlaps"),
        (
            {"a": entry(0, 8), "b": entry(12, 20)},
            "truncated",
        ),
        ({"a": entry(0, 12)}, "12 bytes"),
        ({"a": entry(0, 8, [4])}, "F32 [4]"),
        ({"a": entry(-8, 0)}, "malformed"),
        ({"a": entry(0.0, 8)}, "malformed"),
        ({"a": entry(0, 8, [True, 2])}, "malformed"),
        ({"a": entry(0, 8, None)}, "malformed"),
        ({"a": {"dtype": "F32"}}, "malformed"),
        ({"a": 5}, "malformed"),
    ],
)
def test_wrong_headers(tmp_path: Path, header: dict[str, Any], complaint: str) -> None:
    write_raw(tmp_path / "a.safetensors", header, bytes(16))
    with pytest.raises(StartError) as caught:
        SafetensorsFile(tmp_path / "a.safetensors")
    assert complaint in caught.value.message
    assert str(tmp_path / "a.safetensors") in caught.value.message


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="Is a directory"):
        SafetensorsFile(tmp_path)
