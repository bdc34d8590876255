"""Writes safetensors files for tests, right ones and wrong ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {"uint16": "BF16", "float16": "F16", "float32": "F32", "int8": "I8", "int64": "I64"}
"""NumPy types -> how the file spells them; uint16 stands for bfloat16 bits."""


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Tensors of a file; bfloat16 as uint16 bits."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    types = {name: dtype for dtype, name in TYPES.items()}
    tensors = {}
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(content[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    header, data = {}, b""
    for name, values in tensors.items():
        content = np.ascontiguousarray(values).tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": TYPES[values.dtype.name], "shape": values.shape, "data_offsets": offsets}
        data += content
    write_raw(path, header, data)


def write_raw(path: Path, header: object, data: bytes) -> None:
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


def write_shards(directory: Path, tensors: Mapping[str, NDArray[Any]], count: int) -> None:
    """Write a checkpoint of ``count`` shards and its index."""
    names = list(tensors)
    weight_map = {}
    for shard in range(count):
        file = f"model-{shard + 1:05d}-of-{count:05d}.safetensors"
        held = names[shard::count]
        write_tensors(directory / file, {name: tensors[name] for name in held})
        weight_map.update(dict.fromkeys(held, file))
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
