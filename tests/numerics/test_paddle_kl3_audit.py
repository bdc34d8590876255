"""Every Paddle kernel that serving a model runs is in the KL3 list, with its dtype, and products fit an XPU.

Paddle on an XPU runs anything else on the CPU without a word. Its log at level 6 names the kernel and dtype
that it selects for each call; the list is ``kl3_ops.json``. Kernels that only make a view of their input run
for any place before the list is read, unless FLAGS_use_stride_kernel is 0: they are looked up too.

The XPU's matmul folds all leading dimensions of an operand into one number of matrices (GetFCInfo in
phi/kernels/xpu/xpu_api_wrapper.h) and runs as many products as the larger number says: unless one operand is a
single matrix, it reads past the end of the smaller one where Paddle's CPU place broadcasts it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

KERNEL = re.compile(r"\] (\w+) API kernel key: \[(\w+), [^,\]]+, (\w+)\]")
NEED_STRIDES = {("view_dtype", "int8"), ("view_dtype", "int32"), ("reshape", "int8")}
"""Views that the list lacks. Only int8 caches have them, which therefore need FLAGS_use_stride_kernel: without
it Paddle would take every write to such a cache, and every read, to the host."""
LISTED_AS = {"fused_rms_norm_quant": "rms_norm"}
"""Paddle 3.3 renamed the kernel; the list is older."""

PRODUCT = re.compile(r"^product of shapes (\[.*\]) and (\[.*\])$", re.MULTILINE)
OTHER_PRODUCTS = {
    "addmm",
    "bmm",
    "einsum",
    "fc_xpu",
    "flash_attn",
    "flash_attn_unpadded",
    "flashmask_attention",
    "fused_attention",
    "fused_gemm_epilogue",
    "fused_multi_transformer_xpu",
    "legacy_matmul",
    "matmul_v2",
    "matmul_with_flatten",
    "mul",
    "multi_encoder_xpu",
    "qkv_attention_xpu",
    "variable_length_memory_efficient_attention",
}
"""What else in the KL3 list multiplies matrices: how it meets batches of them on an XPU was not read."""

Kernels = Counter[tuple[str, str]]


def kernels_in(log: str) -> Kernels:
    """(kernel, dtype) -> calls; an in-place kernel ends in ``_`` and counts as its plain twin."""
    return Counter((found[1].rstrip("_"), found[3]) for found in KERNEL.finditer(log))


def violations(kernels: Kernels) -> list[tuple[str, str]]:
    listed = json.loads((files("ernie_kernels.paddle") / "kl3_ops.json").read_text())["phi_ops"]
    return sorted(
        (name, dtype)
        for name, dtype in kernels
        if (name, dtype) not in NEED_STRIDES and dtype not in listed.get(LISTED_AS.get(name, name), [])
    )


def misread_products(log: str) -> list[str]:
    """The products of ``log`` that an XPU gets wrong, and those of which nobody can tell."""
    complaints = []
    for x, y in {(found[1], found[2]) for found in PRODUCT.finditer(log)}:
        shapes = [json.loads(shape) for shape in (x, y)]
        if min(map(len, shapes)) > 2 and shapes[0][:-2] != shapes[1][:-2]:
            complaints.append(f"paddle.matmul of {x} and {y}: leading dimensions differ")
    kernels = kernels_in(log)
    multiplied = sum(calls for (name, _), calls in kernels.items() if name == "matmul")
    if unseen := multiplied - len(PRODUCT.findall(log)):
        complaints.append(f"{unseen} products not by paddle.matmul, so their shapes are unknown")
    others = {name for name, _ in kernels} & OTHER_PRODUCTS
    return sorted(complaints) + [f"a product by {name}: use paddle.matmul" for name in sorted(others)]


def audited(*arguments: str) -> str:
    """The log of a program on Paddle's CPU place: kernels are logged by api.cc, and some by dygraph_api.cc."""
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests), *sys.path])
    result = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "GLOG_vmodule": "*api=6", "GLOG_logtostderr": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stderr


@pytest.fixture(scope="module")
def log() -> str:
    return audited(str(Path(__file__).parent / "kl3_audit_program.py"))


@pytest.fixture(scope="module")
def kernels(log: str) -> Kernels:
    return kernels_in(log)


def test_the_audit_finds_what_is_not_listed() -> None:
    log = (
        "I1122 20:32:03.190342  9475 api.cc:53783] div_scale API kernel key: [CPU, NCHW, float32]\n"
        "I1122 20:32:03.190342  9475 api.cc:53783] bitwise_and_ API kernel key: [CPU, NCHW, int32]\n"
        "I1122 20:32:03.190342  9475 api.cc:53783] full API kernel key: [CPU, Undefined(AnyLayout), float32]\n"
    )
    assert violations(kernels_in(log)) == [("bitwise_and", "int32"), ("div_scale", "float32")]
    assert kernels_in(log)["full", "float32"] == 1


def test_kernels_that_another_file_of_paddle_logs_are_seen() -> None:
    log = audited("-c", "import paddle; paddle.nn.functional.layer_norm(paddle.ones([2, 3], 'float64'), [3])")
    assert ("layer_norm", "float64") in violations(kernels_in(log))


def test_the_program_was_seen(kernels: Kernels) -> None:
    assert kernels["matmul", "float32"] > 100
    assert kernels["scatter", "float32"] > 10
    assert kernels["gather", "int8"] > 0
    assert kernels["scatter", "int32"] > 0
    assert kernels["round", "float32"] > 10
    assert kernels["sum", "float32"] > 10, "no experts"
    assert kernels["layer_norm", "float32"] > 10, "no towers"
    in_bfloat16 = ("matmul", "weight_only_linear", "fused_rms_norm_quant", "swiglu", "scatter", "gather")
    for name in in_bfloat16:
        assert kernels[name, "bfloat16"] > 3, name


def test_every_kernel_is_listed(kernels: Kernels) -> None:
    assert violations(kernels) == []


def test_every_product_is_one_that_an_xpu_computes(log: str) -> None:
    assert misread_products(log) == []


PREPARED = """
from numerics.kl3_audit_program import log_products, paddle

log_products()
queries, keys, matrix = (paddle.ones(shape) for shape in ([2, 3, 4, 5, 6], [2, 3, 1, 7, 6], [7, 6]))
"""
"""Grouped queries in five dimensions; keys that their heads would have to share by broadcasting."""
PRODUCTS = {
    "paddle.matmul(queries, matrix, transpose_y=True)": "",
    "paddle.matmul(queries.reshape([2, 3, 20, 6]), keys.squeeze(2), transpose_y=True)": "",
    "paddle.matmul(queries, keys, transpose_y=True)": "[2, 3, 4, 5, 6] and [2, 3, 1, 7, 6]: leading",
    "paddle.matmul(matrix.unsqueeze(0), keys, transpose_y=True)": "[1, 7, 6] and [2, 3, 1, 7, 6]: leading",
    "queries @ keys.transpose([0, 1, 2, 4, 3])": "1 products not by paddle.matmul",
    "queries.matmul(keys, transpose_y=True)": "1 products not by paddle.matmul",
    "paddle.nn.functional.linear(queries, matrix.t())": "1 products not by paddle.matmul",
    "paddle.inner(matrix, matrix)": "1 products not by paddle.matmul",
    "paddle.einsum('nhgqd,nhld->nhgql', queries, keys.squeeze(2))": "a product by einsum",
    "paddle.bmm(queries[0, 0], queries[0, 0].transpose([0, 2, 1]))": "a product by bmm",
    "paddle.addmm(matrix @ matrix.t(), matrix, matrix.t())": "a product by addmm",
}
"""Products -> what the audit says of them, or a part of it."""


def test_the_audit_finds_products_that_an_xpu_gets_wrong() -> None:
    marked = [f"import sys; print('next one', file=sys.stderr); {product}" for product in PRODUCTS]
    logs = audited("-c", "\n".join([PREPARED, *marked])).split("next one\n")[1:]
    for log, (product, complaint) in zip(logs, PRODUCTS.items(), strict=True):
        found = "; ".join(misread_products(log))
        assert complaint in found if complaint else not found, f"{product}: {found}"
