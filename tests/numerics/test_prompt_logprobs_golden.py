"""Log probabilities of a prompt and of a greedy answer, through the whole engine, against the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ernie_backend.devices.backend import CPU
from ernie_backend.engine.engine import Engine
from ernie_backend.kv.block_manager import BlockManager
from ernie_backend.runner.model_runner import ModelRunner
from ernie_backend.runner.sampler import Sampler
from ernie_backend.settings.engine_settings import SchedulerLimits
from ernie_kernels.api import CacheSpec
from ernie_kernels.formats import ActivationType
from ernie_wire.messages import Output
from fakes.sequences import make_request
from numerics.backends import CPU_BACKENDS, make_ops
from numerics.generation import load
from numerics.golden import DETAILED_ROW, DIRECTORIES, LOGITS_TOLERANCE, golden_details, golden_rows


def _answer(backend: str, rows: int) -> list[Output]:
    ops = make_ops(backend)
    model = load(DIRECTORIES["hf"], ops, "float32", None, ActivationType.FLOAT32)
    config = model.config
    spec = CacheSpec(30, 4, config.num_kv_heads, config.head_dim, "float32")
    runner = ModelRunner(model, ops, [ops.allocate_cache(spec) for _ in range(config.num_layers)])
    limits = SchedulerLimits(2, 100, 9, max_prompt_logit_rows=rows)
    engine = Engine(runner, BlockManager(30, 4), limits, Sampler(CPU.token_sampler(ops), config.vocab_size))
    request = make_request("r", tuple(golden_rows()[DETAILED_ROW].prompt), 32)
    request.sequence.sampling = replace(request.sequence.sampling, logprobs=5, prompt_logprobs=5)
    assert engine.submit(request) is None
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
    return outputs


def _logprobs(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    exact: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return exact


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_prompt_s_log_probabilities_are_the_oracle_s(backend: str) -> None:
    golden, row = _logprobs(golden_details().logits), golden_rows()[DETAILED_ROW]
    first, *rest = _answer(backend, rows=5)
    entries = first.prompt_logprobs or ()
    assert len(entries) == len(row.prompt)
    assert entries[0] is None
    for position, entry in enumerate(entries[1:]):
        assert entry is not None
        assert entry.token_id == row.prompt[position + 1]
        assert entry.logprob == pytest.approx(golden[position, entry.token_id], abs=LOGITS_TOLERANCE)
        for each in entry.top:
            assert each.logprob == pytest.approx(golden[position, each.token_id], abs=LOGITS_TOLERANCE)
        assert entry.top[0].logprob == pytest.approx(golden[position].max(), abs=LOGITS_TOLERANCE)
    chosen = [entry for output in (first, *rest) for entry in output.logprobs or ()]
    assert [entry.token_id for entry in chosen if entry] == row.greedy
    assert all(entry.rank == 1 for entry in chosen if entry)
    assert chosen[0] is not None
    assert chosen[0].logprob == pytest.approx(golden[-1].max(), abs=LOGITS_TOLERANCE)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_how_many_rows_a_step_takes_changes_no_bit(backend: str) -> None:
    assert _answer(backend, rows=1) == _answer(backend, rows=64)
