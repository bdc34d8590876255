"""Where tensors are, and what a kernel reads of one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from numpy.typing import NDArray

from ernie_kernels.paddle.place import Place
from fakes.paddle_bfloat16 import Tensor, expect, floats

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
