"""An engine over a checkpoint that is quantized: what config.json says is what it runs with."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ernie_backend.service.start import start_engine
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters
from support.checkpoints.quantized_checkpoints import make


def test_a_w4a8c8_checkpoint_cut_for_ranks_is_served_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make("moe_tp", tmp_path / "q", "w4a8", has_cache_scales=True, ranks=2)
    caplog.set_level(logging.WARNING)
    started = start_engine({"model": str(model), "quantization": "wint4", "device": "cpu", "threads": "1"})
    assert "quantization wint4" in caplog.text
    description = started.ready.description
    assert (description.quantization, description.kv_cache_dtype) == ("w4a8", "int8")
    sampling = SamplingParameters(max_tokens=4, ignore_eos=True, temperature=0.0)
    request = GenerateRequest("a", input_ids=(5, 6, 7), sampling=sampling)
    assert started.engine.submit(started.input_processor.process(request)) is None
    outputs = [output for _ in range(8) for output in started.engine.step()]
    assert sum(len(output.token_ids) for output in outputs) == 4
