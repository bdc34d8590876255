"""The goldens of decoders with images and videos, by every backend and in every layout.

The golden's embeddings of media stand in for those of a tower. Hidden states, logits, 32 greedy tokens; alone, in
a ragged batch, and cut inside of an image.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from numerics.backends import BACKENDS, make_ops
from numerics.generation import assert_steps_change_no_bit, generate, load, prompt_logits
from numerics.golden import (
    HIDDEN_TOLERANCE,
    LOGITS_TOLERANCE,
    MEDIA_FAMILIES,
    checkpoint,
    golden_cases,
    max_difference,
)
from numerics.ops_cases import ISAS, WEIGHT_TYPES, cpu_ops
from numerics.recording import RecordingOps

backends = pytest.mark.parametrize("backend", BACKENDS)
families = pytest.mark.parametrize(("family", "layout"), MEDIA_FAMILIES)


@backends
@families
@pytest.mark.parametrize("chunk", [None, 5])
def test_all_cases_together(backend: str, family: str, layout: str, chunk: int | None) -> None:
    ops, cases = make_ops(backend), golden_cases(family).values()
    model = load(checkpoint(family, layout), ops)
    generated, logits = generate(model, ops, [case.prompt for case in cases], 32, chunk)
    assert max_difference(logits, np.stack([case.logits for case in cases])) <= LOGITS_TOLERANCE
    assert generated == [case.greedy for case in cases]


@backends
@families
def test_each_case_alone(backend: str, family: str, layout: str) -> None:
    ops = RecordingOps(make_ops(backend))
    model = load(checkpoint(family, layout), ops)
    per_step = 1 + 2 * model.config.num_layers
    for case in golden_cases(family).values():
        ops.residuals.clear()
        ops.normed.clear()
        logits = prompt_logits(model, ops, case.prompt)
        assert max_difference(logits[-1], case.logits) <= LOGITS_TOLERANCE
        if case.hidden is None or case.final_norm is None:
            continue
        for index, hidden in enumerate(case.hidden):
            found = np.concatenate(ops.residuals[2 * index :: per_step])
            assert max_difference(found, hidden) <= HIDDEN_TOLERANCE, f"after {index} layers"
        assert max_difference(ops.normed[-1], case.final_norm) <= HIDDEN_TOLERANCE


def test_which_tokens_go_to_the_experts_of_media_is_the_batches_choice() -> None:
    ops = cpu_ops(ISAS[0])
    model = load(checkpoint("vl_moe"), ops)
    for case in golden_cases("vl_moe").values():
        if case.placeholder_logits is not None:
            prompt = replace(case.prompt, is_vision=case.prompt.is_media)
            logits = prompt_logits(model, ops, prompt)
            assert max_difference(logits[-1], case.placeholder_logits) <= LOGITS_TOLERANCE


@pytest.mark.parametrize("isa", ISAS)
def test_steps_change_no_bit(isa: str) -> None:
    ops, cases = cpu_ops(isa), golden_cases("vl_moe")
    prompts = [cases[name].prompt for name in ("text", "image_video", "image")]
    for dtype, quantization, activation in (
        ("float32", None, WEIGHT_TYPES[0][1]),
        ("bfloat16", "wint4", WEIGHT_TYPES[-1][1]),
    ):
        model = load(checkpoint("vl_moe"), ops, dtype, quantization, activation)
        assert_steps_change_no_bit(model, ops, prompts)
