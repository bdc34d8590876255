"""The self-check finds what it is made for: faults that were planted into a backend that is right."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ernie_backend.selfcheck import rates
from ernie_backend.selfcheck.models import FAMILIES, check_models
from ernie_backend.selfcheck.ops import check_ops
from ernie_backend.selfcheck.probes import check_probes
from ernie_backend.selfcheck.report import compared
from ernie_kernels.api import Ops
from ernie_kernels.formats import ActivationType, Int4Weight, Int8Weight, LinearWeight, W4A8Weight
from ernie_kernels.reference import ReferenceOps
from ernie_kernels.sampling import HeadOutput

EXACT = 1e-5
Change = Callable[[LinearWeight], LinearWeight]


class FaultyOps(ReferenceOps):
    """The reference with one fault in its weights."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self._change = change

    def pack_linear(self, weight: LinearWeight, activation: ActivationType) -> Any:
        return super().pack_linear(self._change(weight), activation)


class WrongHeads(ReferenceOps):
    """The reference with the kv heads in the reverse order."""

    def attention(self, qkv: Any, rotary: Any, cache: Any, batch: Any) -> Any:
        width = cache.spec.num_kv_heads * cache.spec.head_dim
        keys = qkv[:, -2 * width : -width].reshape(len(qkv), -1, cache.spec.head_dim)[:, ::-1]
        swapped = np.concatenate([qkv[:, : -2 * width], keys.reshape(len(qkv), -1), qkv[:, -width:]], axis=1)
        return super().attention(swapped, rotary, cache, batch)


class NextTokens(ReferenceOps):
    """The reference, which chooses the token behind the right one."""

    def lm_head(self, hidden: Any, head: Any, batch: Any) -> HeadOutput:
        found = super().lm_head(hidden, head, batch)
        return found._replace(tokens=found.tokens + 1)


class Failing(ReferenceOps):
    """The reference without an op."""

    def mlp(self, x: Any, gate_up: Any, down: Any) -> Any:
        raise RuntimeError("no such kernel")


def absmax_scales(weight: LinearWeight) -> LinearWeight:
    return replace(weight, scales=weight.scales * np.float32(127)) if isinstance(weight, Int8Weight) else weight


def swapped_nibbles(weight: LinearWeight) -> LinearWeight:
    if not isinstance(weight, Int4Weight):
        return weight
    return replace(weight, packed=(weight.packed >> 4 | weight.packed << 4).astype(np.uint8))


def normed_rotation(weight: LinearWeight) -> LinearWeight:
    if not isinstance(weight, W4A8Weight):
        return weight
    factor = np.float32(np.sqrt(weight.rotation))
    return replace(weight, weight=replace(weight.weight, scales=weight.weight.scales * factor))


def shifted_columns(weight: LinearWeight) -> LinearWeight:
    """As a kernel that reads [K, N]."""
    is_square = isinstance(weight, Int8Weight) and len(weight.codes) == weight.codes.shape[1]
    return replace(weight, codes=weight.codes.T) if isinstance(weight, Int8Weight) and is_square else weight


def factor_of_rotation(weight: LinearWeight) -> LinearWeight:
    """As a kernel that divides by sqrt(128), for which the weights do not pay."""
    if not isinstance(weight, W4A8Weight) or not weight.rotation:
        return weight
    return replace(weight, weight=replace(weight.weight, scales=weight.weight.scales / np.float32(128**0.5)))


class RouterInTf32(ReferenceOps):
    """The reference, whose routers keep 11 bits."""

    def pack_moe(self, banks: Any, shared: Any, activation: ActivationType) -> Any:
        def rounded(gate: Any) -> Any:
            mantissas, exponents = np.frexp(gate)
            return np.ldexp(np.rint(mantissas * 2**11) / 2**11, exponents).astype(np.float32)

        changed = [replace(bank, router=replace(bank.router, gate=rounded(bank.router.gate))) for bank in banks]
        return super().pack_moe(changed, shared, activation)


class OneTable(ReferenceOps):
    """The reference, which turns every sequence by the places of the first."""

    def attention(self, qkv: Any, rotary: Any, cache: Any, batch: Any) -> Any:
        if batch.positions.ndim == 2 and len(batch.context_lengths) > 1:
            first = batch.positions[:, : batch.query_starts[1]]
            repeated = np.resize(first, batch.positions.shape).astype(np.int32)
            batch = replace(batch, positions=repeated)
        return super().attention(qkv, rotary, cache, batch)


def failures(ops: Ops) -> set[str]:
    return {check.name for check in check_ops(ops, EXACT) if not check.passed}


def test_the_reference_passes() -> None:
    assert failures(ReferenceOps()) == set()
    assert [check.passed for check in check_models(ReferenceOps(), EXACT)] == [True] * 3 * len(FAMILIES)


@pytest.mark.parametrize(
    ("change", "caught"),
    [(absmax_scales, "linear wint8"), (swapped_nibbles, "linear wint4"), (normed_rotation, "moe w4a8")],
)
def test_another_layout_of_weights_is_found(change: Change, caught: str) -> None:
    found = failures(FaultyOps(change))
    assert caught in found
    assert not found & {"embed and lm_head", "norm, add_norm", "linear bf16", "attention, float32 cache"}


def test_the_probes_pass_on_the_reference() -> None:
    assert [check for check in check_probes(ReferenceOps()) if not check.passed] == []


@pytest.mark.parametrize(
    ("ops", "name", "found"),
    [
        (FaultyOps(absmax_scales), "probe, scale of int8 weights", "127 times"),
        (FaultyOps(shifted_columns), "probe, scale of int8 weights", r"weights \[K, N\]"),
        (FaultyOps(factor_of_rotation), "probe, rotation of w4a8", r"spread of 0\.08"),
        (RouterInTf32(), "probe, router", "8 of 16 tokens go to another expert"),
    ],
)
def test_a_probe_names_its_fault(ops: Ops, name: str, found: str) -> None:
    failed = {check.name: check for check in check_probes(ops) if not check.passed}
    assert re.search(found, failed[name].found)


def test_tables_of_another_sequence_are_found() -> None:
    assert failures(OneTable()) == {"attention, media of VL", "attention, media of PaddleOCR-VL"}


def test_tokens_beside_the_right_ones_are_found() -> None:
    """Whatever error of numbers is allowed, as on a card."""
    failed = {check.name for check in check_ops(NextTokens(), 0.03) if not check.passed}
    assert failed == {"choice of tokens"}


def test_rates_are_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden_size": 64, "intermediate_size": 64, "vocab_size": 64, "num_hidden_layers": 1}
    monkeypatch.setattr(rates, "_MODEL", {**rates._MODEL, **small})
    monkeypatch.setattr(rates, "_WIDTH", 64)
    monkeypatch.setattr(rates, "_ROWS", 64)
    monkeypatch.setattr(rates, "_VOCAB", 64)
    monkeypatch.setattr(rates, "_LARGE_POOL", 32)
    measured = [check for check in rates.measure_rates(ReferenceOps()) if check.rate]
    assert [check.name for check in measured] == [
        "rate, bf16 product",
        "rate, tokens of 1 request",
        "rate, tokens of 16 requests",
    ]
    assert all(f"{check.rate:.0f} " in check.found for check in measured)


def test_every_other_op_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a tenth, on a card, whose tolerance is the widest."""
    lines = {
        "norm": {"norm, add_norm"},
        "mlp": {"mlp"},
        "moe": {f"moe {name}" for name in ("bf16", "wint8", "wint4", "w4a8")},
        "layer_norm": {"layer_norm"},
        "gelu_mlp": {"gelu_mlp"},
        "put_rows": {"rows of media"},
        "attend_patches": {"attention of patches"},
    }

    def too_large(op: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: op(*arguments) * np.float32(1.1)

    wrong = ReferenceOps()
    for op in lines:
        monkeypatch.setattr(wrong, op, too_large(getattr(wrong, op)))
    failed = {check.name for check in check_ops(wrong, 0.03) if not check.passed}
    assert failed == set().union(*lines.values())


def test_wrong_heads_are_found() -> None:
    assert {"attention, float32 cache", "attention, int8 cache"} <= failures(WrongHeads())


def test_an_op_that_fails_is_a_finding_and_the_others_go_on() -> None:
    checks = {check.name: check for check in check_ops(Failing(), EXACT)}
    assert "no such kernel" in checks["mlp"].found
    assert checks["attention, int8 cache"].passed


def test_not_a_number_fails() -> None:
    values = np.ones((2, 2), np.float32)
    assert not compared("x", values, values * np.float32(np.nan), 1.0, "").passed
    assert not compared("x", values, values[:1], 1.0, "").passed
