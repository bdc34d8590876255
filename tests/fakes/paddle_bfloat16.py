"""The bfloat16 kernels that Paddle has for an XPU and lacks for its CPU place, in NumPy.

Each is stricter than Paddle's own: it takes what the XPU's kernel was read to take, and says what it does not.
Sums are float32 and results are rounded once. Every call writes the line that Paddle's log would have, so that
the audit of kernels sees it.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.formats import bfloat16_to_float32, float32_to_bfloat16
from ernie_kernels.paddle import PaddleOps
from ernie_kernels.paddle.place import Place, paddle

Floats = NDArray[np.float32]
Tensor = Any
F = TypeVar("F", bound=Callable[..., Any])

PLACE = Place("cpu", has_bfloat16=True)
_ORIGINALS = {"matmul": paddle.matmul, "scatter_": paddle.scatter_, "add": paddle.add}


def floats(x: Tensor) -> Floats:
    """The float32 values of a bfloat16 tensor, without a kernel of Paddle."""
    values = x.numpy()
    return bfloat16_to_float32(values) if values.dtype == np.uint16 else values.astype(np.float32)


def memory(x: Tensor) -> NDArray[Any]:
    """The memory of a tensor, to write to; bfloat16 as uint16."""
    expect(x.is_contiguous(), f"a view {x.shape} {x.strides} that is not contiguous")
    values = x.numpy()
    buffer = (ctypes.c_byte * values.nbytes).from_address(x.data_ptr())
    return np.frombuffer(buffer, values.dtype).reshape(values.shape)


def bfloat16(values: Floats) -> Tensor:
    return PLACE.upload_bfloat16(float32_to_bfloat16(values))


def expect(is_met: bool, complaint: str) -> None:
    """Fail as a kernel on a card would have to: not by a wrong number."""
    if not is_met:
        raise AssertionError(complaint)


def log(kernel: str, dtype: str = "bfloat16") -> None:
    if _Log.is_on:
        sys.stderr.write(f"I mock] {kernel} API kernel key: [XPU, NCHW, {dtype}]\n")


class _Log:
    is_on = False


@dataclass
class Counts:
    """What a step costs a card, apart from Paddle's own kernels.

    Attributes:
        uploads: copies from the host to the device.
        downloads: copies back; each waits for the device.
        downloaded_values: numbers in them.
    """

    uploads: int = 0
    downloads: int = 0
    downloaded_values: int = 0


class _Inside:
    """Whether a stand-in is at work: what it does on the host is no copy."""

    is_kernel = False


def kernel(function: F) -> F:
    """Mark a stand-in: a line of the log tells where its own use of Paddle begins and ends."""

    @functools.wraps(function)
    def launched(*arguments: Any, **keywords: Any) -> Any:
        if _Inside.is_kernel:
            return function(*arguments, **keywords)
        mark(f"kernel {function.__name__} begins")
        with patch.object(_Inside, "is_kernel", True):
            result = function(*arguments, **keywords)
        mark("kernel ends")
        return result

    return cast(F, launched)


def mark(text: str) -> None:
    if _Log.is_on:
        sys.stderr.write(f"mark: {text}\n")


@contextmanager
def counted_copies() -> Iterator[Counts]:
    """Count the copies between host and device that the ops make."""
    counts, upload, numpy = Counts(), Place.upload, paddle.Tensor.numpy

    def counting_upload(place: Place, values: NDArray[Any]) -> Tensor:
        counts.uploads += place.has_bfloat16 and not _Inside.is_kernel
        return upload(place, values)

    def counting_numpy(tensor: Tensor, *arguments: Any) -> NDArray[Any]:
        if not _Inside.is_kernel:
            counts.downloads += 1
            counts.downloaded_values += tensor.size
        return cast(NDArray[Any], numpy(tensor, *arguments))

    with (
        patch.object(Place, "upload", counting_upload),
        patch.object(paddle.Tensor, "numpy", counting_numpy),
    ):
        yield counts


def is_bfloat16(x: Tensor) -> bool:
    return bool(x.dtype == paddle.bfloat16)


def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    if not (is_bfloat16(x) or is_bfloat16(y)):
        return _ORIGINALS["matmul"](x, y, transpose_x, transpose_y)
    expect(is_bfloat16(x) and is_bfloat16(y), f"matmul of {x.dtype} and {y.dtype}")
    expect(min(x.ndim, y.ndim) <= 2 or x.shape[:-2] == y.shape[:-2], f"matmul broadcasts {x.shape}, {y.shape}")
    log("matmul")
    return _bfloat16_product(x, y, transpose_x, transpose_y)


@kernel
def _bfloat16_product(x: Tensor, y: Tensor, transpose_x: bool, transpose_y: bool) -> Tensor:
    a, b = floats(x), floats(y)
    return bfloat16((a.swapaxes(-1, -2) if transpose_x else a) @ (b.swapaxes(-1, -2) if transpose_y else b))


@kernel
def weight_only_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    weight_scale: Tensor | None = None,
    weight_dtype: str = "int8",
    arch: int | None = None,
    group_size: int = -1,
) -> Tensor:
    """As paddle/phi/kernels/xpu/weight_only_linear_kernel.cc: the scale is the absmax of an output."""
    expect(is_bfloat16(x) and x.ndim == 2, f"weight_only_linear: x is {x.dtype} {x.shape}")
    expect(weight_dtype == "int8", f"weight_only_linear: an XPU has no {weight_dtype}")
    expect(weight.dtype == paddle.int8, f"weight_only_linear: weight is {weight.dtype}")
    expect(
        weight.shape[1:] == x.shape[1:], f"weight_only_linear: weight {weight.shape} is not [N, K] of {x.shape}"
    )
    assert weight_scale is not None
    expect(
        weight_scale.dtype == paddle.float32 and weight_scale.shape == weight.shape[:1],
        f"weight_only_linear: scale is {weight_scale.dtype} {weight_scale.shape}",
    )
    expect(group_size == -1 and arch is not None, "weight_only_linear: arch None asks for a GPU's")
    log("weight_only_linear")
    product = floats(x) @ weight.numpy().astype(np.float32).T * (weight_scale.numpy() / np.float32(127))
    return bfloat16(product if bias is None else product + floats(bias))


@kernel
def fused_rms_norm(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    epsilon: float,
    begin_norm_axis: int,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor, None]:
    """As paddle/phi/kernels/xpu/rms_norm_kernel.cc: the sum is rounded before it is normed."""
    expect(is_bfloat16(x) and x.ndim == 2 and begin_norm_axis == 1, f"fused_rms_norm: x is {x.dtype} {x.shape}")
    expect(
        is_bfloat16(norm_weight) and norm_weight.shape == x.shape[1:],
        f"fused_rms_norm: the kernel reads the weight in the type of x; it is {norm_weight.dtype}",
    )
    expect(norm_bias is None and bias is None, "fused_rms_norm: ERNIE has no bias here")
    log("fused_rms_norm_quant")
    total = x
    if residual is not None:
        expect(
            is_bfloat16(residual) and residual.shape == x.shape, f"fused_rms_norm: residual {residual.dtype}"
        )
        total = bfloat16(floats(x) + floats(residual))
    values = floats(total)
    scale = 1 / np.sqrt(np.mean(values**2, axis=1, keepdims=True) + np.float32(epsilon))
    return bfloat16(values * scale * floats(norm_weight)), total, None


@kernel
def swiglu(x: Tensor) -> Tensor:
    expect(is_bfloat16(x) and x.shape[-1] % 2 == 0, f"swiglu: x is {x.dtype} {x.shape}")
    log("swiglu")
    gate, up = np.split(floats(x), 2, axis=-1)
    with np.errstate(over="ignore"):
        return bfloat16(gate / (1 + np.exp(-gate)) * up)


def scatter_(x: Tensor, index: Tensor, updates: Tensor, overwrite: bool = True) -> Tensor:
    if not is_bfloat16(x):
        return _ORIGINALS["scatter_"](x, index, updates, overwrite)
    expect(is_bfloat16(updates), f"scatter_: updates are {updates.dtype}")
    log("scatter")
    _bfloat16_scatter(x, index, updates)
    return x


@kernel
def _bfloat16_scatter(x: Tensor, index: Tensor, updates: Tensor) -> None:
    memory(x)[index.numpy()] = updates.numpy()


def add(x: Tensor, y: Tensor) -> Tensor:
    if not is_bfloat16(x):
        return _ORIGINALS["add"](x, y)
    expect(is_bfloat16(y) and x.shape == y.shape, f"add of {x.dtype} {x.shape} and {y.dtype} {y.shape}")
    log("add")
    return _bfloat16_sum(x, y)


@kernel
def _bfloat16_sum(x: Tensor, y: Tensor) -> Tensor:
    return bfloat16(floats(x) + floats(y))


@contextmanager
def bfloat16_kernels(*, is_logged: bool = False) -> Iterator[None]:
    """Give Paddle's CPU place the kernels of this module."""
    functional = paddle.incubate.nn.functional
    patches: list[tuple[object, Callable[..., Any]]] = [
        (paddle, matmul),
        (paddle, scatter_),
        (paddle, add),
        (paddle.nn.quant, weight_only_linear),
        (functional, fused_rms_norm),
        (functional, swiglu),
    ]
    with patch.object(_Log, "is_on", is_logged):
        started = [patch.object(module, function.__name__, function) for module, function in patches]
        for each in started:
            each.start()
        try:
            yield
        finally:
            for each in reversed(started):
                each.stop()


def bfloat16_ops() -> PaddleOps:
    """The ops on the mocked place; the kernels have to be there when they are called."""
    with patch.object(Place, "select", functools.partial(lambda _: PLACE)):
        return PaddleOps("xpu:0")
