"""Models that see, on ``FastDeployOps``: a rotary table for each sequence, or composed attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ernie_kernels.api import CacheSpec, RotarySpec, UnsupportedError
from ernie_kernels.fastdeploy.library import Lineage
from ernie_kernels.fastdeploy.ops import FastDeployOps
from ernie_kernels.fastdeploy.rotary import SequenceTables, SharedTable
from ernie_kernels.fastdeploy.upload import FastDeployStep
from ernie_kernels.formats import ActivationType, round_to_bfloat16
from ernie_kernels.paddle.rotary import DeviceRotary
from fakes.fastdeploy.library import fastdeploy_library
from fakes.paddle_bfloat16 import bfloat16, floats
from numerics.bfloat16_reference import Bfloat16Reference
from numerics.fastdeploy_ops import FastDeployReference, fastdeploy_ops
from numerics.generation import generate, load
from numerics.golden import Floats, checkpoint, cosine, golden_cases
from numerics.test_fastdeploy_ops import static_scales
from numerics.test_fastdeploy_step import batch_of
from numerics.test_paddle_bfloat16 import COSINE
from numerics.test_paddle_ops import normal

BFLOAT16 = ActivationType.BFLOAT16
VL = RotarySpec(8, 32, 10000.0, axes=(1, 2, 1, 0))
OCR = RotarySpec(8, 32, 10000.0, interleaved=False, axes=(0, 1, 2, 2))


class ComposedAttentionReference(FastDeployReference):
    """Rotated queries stay float32."""

    attention = Bfloat16Reference.attention


def answers(ops: Any, family: str, quantization: str | None) -> Floats:
    """Logits after prompts with pictures and without, in chunks; some decode while others fill in."""
    prompts = [case.prompt for case in golden_cases(family).values()][:4]
    model = load(checkpoint(family), ops, "bfloat16", quantization, BFLOAT16)
    _, logits = generate(model, ops, prompts, num_tokens=3, chunk=9)
    return logits


@pytest.mark.parametrize(
    ("lineage", "family", "quantization", "is_composed"),
    [
        (Lineage.V2_3, "vl_moe", "wint4", False),
        (Lineage.V2_4, "paddleocr_vl", "wint8", True),
        (Lineage.DEVELOP, "paddleocr_vl", None, False),
        pytest.param(Lineage.V2_4, "vl_moe", "wint8", False, marks=pytest.mark.full),
        pytest.param(Lineage.DEVELOP, "vl_moe", None, False, marks=pytest.mark.full),
        pytest.param(Lineage.V2_3, "paddleocr_vl", None, True, marks=pytest.mark.full),
    ],
)
def test_models_that_see(
    lineage: Lineage, family: str, quantization: str | None, is_composed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the kernels do not rotate so, the start says that attention is composed, and which version does."""
    reference = ComposedAttentionReference() if is_composed else FastDeployReference()
    with fastdeploy_ops(lineage) as ops:
        found = answers(ops, family, quantization)
    notices = [message for message in caplog.messages if "block_attn is not used" in message]
    assert len(notices) == is_composed
    assert all("slow fallback" in notice and Lineage.DEVELOP.value in notice for notice in notices)
    assert cosine(found, answers(reference, family, quantization)) > COSINE


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("axes", [(), (1, 2, 1, 0)])
@pytest.mark.parametrize("lineage", list(Lineage))
def test_which_tables_a_lineage_takes(lineage: Lineage, axes: tuple[int, ...], interleaved: bool) -> None:
    with fastdeploy_ops(lineage) as ops:
        packed = ops.pack_rotary(RotarySpec(8, 32, 10000.0, interleaved, axes=axes))
    taken: type = SequenceTables if axes else SharedTable
    assert isinstance(packed, taken if interleaved or lineage is Lineage.DEVELOP else DeviceRotary)


def test_a_table_holds_the_angles_of_the_steps_rows_and_grows() -> None:
    """Whichever row of the block table a sequence has; a step of more sequences takes more tables."""
    with fastdeploy_ops(Lineage.V2_4) as ops:
        table, _ = ops.pack_rotary(VL), ops.allocate_cache(CacheSpec(99, 4, 1, 8, "bfloat16"))
        assert isinstance(table, SequenceTables)
        few, many = batch_of([2, 1], [0, 5]), batch_of([1] * 9, [3] * 9)
        random = np.random.default_rng(1)
        for batch, sequences in ((few, 8), (many, 16), (few, 16)):
            places = random.integers(0, 32, (3, len(batch.token_ids)), np.int32)
            if batch is many:  # text has the same place on every axis
                places = batch.positions
            step = ops.upload(replace(batch, positions=places))
            assert isinstance(step, FastDeployStep)
            tables = table.of_step(step).numpy()
            assert tables.shape == (sequences, 2, 1, 32, 1, 4)
            expected = FastDeployReference().pack_rotary(VL).angles(places)
            counts = np.diff(batch.query_starts)
            owners = np.repeat(np.arange(len(counts)), counts)
            for part in range(2):
                found = tables[owners, part, 0, batch.positions, 0]
                np.testing.assert_allclose(found, expected[part], atol=1e-6)


# Planted faults


def with_attention(ops: FastDeployOps, **change: Any) -> None:
    """Give ``block_attn`` other arguments, made of those that it was given."""
    library = fastdeploy_library(ops._library.lineage)

    def block_attn(**given: Any) -> Any:
        return library.block_attn(**given | {name: make(given) for name, make in change.items()})

    ops._library = replace(library, block_attn=block_attn)


def test_the_table_of_another_sequence_is_noticed() -> None:
    with fastdeploy_ops(Lineage.V2_4) as ops:
        expected = answers(ops, "vl_moe", None)
        with_attention(ops, rotary_embs=lambda given: given["rotary_embs"].roll(1, 0))
        assert cosine(answers(ops, "vl_moe", None), expected) < COSINE


@pytest.mark.parametrize(
    ("lineage", "family", "name", "value", "complaint"),
    [
        (Lineage.V2_3, "vl_moe", "pos_emb_type", "NORMAL", "NORMAL is"),
        (Lineage.V2_4, "vl_moe", "use_neox_rotary_style", True, "NEOX is"),
        (Lineage.DEVELOP, "paddleocr_vl", "rope_3d", False, "the kernel reads 5 dimensions"),
    ],
)
def test_another_style_is_noticed(lineage: Lineage, family: str, name: str, value: Any, complaint: str) -> None:
    with fastdeploy_ops(lineage) as ops:
        with_attention(ops, **{name: lambda _: value})
        with pytest.raises(AssertionError, match=complaint):
            answers(ops, family, None)


def test_pairs_of_the_other_style_are_noticed() -> None:
    """Their tables have one shape."""
    with fastdeploy_ops(Lineage.DEVELOP) as ops:
        expected = answers(ops, "paddleocr_vl", None)
        with_attention(ops, use_neox_rotary_style=lambda _: False)
        assert cosine(answers(ops, "paddleocr_vl", None), expected) < COSINE


def test_neox_in_chunks_before_the_kernel_could_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ernie_kernels.fastdeploy.ops.why_composed", lambda *_: None)
    with (
        fastdeploy_ops(Lineage.V2_4) as ops,
        pytest.raises(AssertionError, match=r"2.4 and 2.5 starts at place 0"),
    ):
        answers(ops, "paddleocr_vl", None)


# What the kernels cannot do


def test_an_int8_cache_of_pairs_of_halves_is_refused() -> None:
    spec = CacheSpec(2, 4, 2, 8, "int8", static_scales())
    with fastdeploy_ops(Lineage.DEVELOP) as ops:
        ops.pack_rotary(OCR)
        with pytest.raises(
            UnsupportedError, match=r"no int8 cache for rotary pairs .*; use ERNIE_XPU_OPS=composed"
        ):
            ops.allocate_cache(spec)
        ops.pack_rotary(VL)
        assert ops.allocate_cache(spec).spec == spec


def test_composed_attention_takes_the_steps_of_fastdeploy() -> None:
    with fastdeploy_ops(Lineage.V2_4) as ops:
        spec, reference = CacheSpec(4, 4, 1, 8, "bfloat16"), ComposedAttentionReference()
        rotary = replace(OCR, axes=())
        table, cache = ops.pack_rotary(rotary), ops.allocate_cache(spec)
        batch, qkv = batch_of([5], [0]), round_to_bfloat16(normal(3, 5, 24))
        found = floats(ops.attention(bfloat16(qkv), table, cache, ops.upload(batch)))
        expected = reference.attention(
            qkv, reference.pack_rotary(rotary), reference.allocate_cache(spec), batch
        )
    np.testing.assert_allclose(found, expected, atol=0.03)
