"""What ``serve`` refuses before it starts anything: too large a model, and one that was cut for other ranks."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from ernie_cli.errors import CommandError
from ernie_cli.model.check import check_model
from ernie_cli.presets.released import RELEASED
from support.checkpoints.quantized_checkpoints import make
from support.paths import DATA


def test_a_model_that_does_not_fit_is_refused_with_need_and_have(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(RELEASED["ERNIE-4.5-300B-A47B"].fields)))
    with pytest.raises(CommandError) as raised:
        check_model(tmp_path, {"device": "cpu", "load_choices": "dummy", "gpu_memory_utilization": "0.01"})
    message = str(raised.value)
    assert re.search(r"558\.\d+ GiB \(weights 557\..*gpu_memory_utilization 0\.01 of", message)
    shown = raised.value.to_text().splitlines()
    assert shown[0] == "ernie-triton: the model does not fit"
    assert [line.split(":")[0] for line in shown[1:3]] == ["  memory needed", "  had"]


def test_a_small_model_is_not(tmp_path: Path) -> None:
    fields = {**RELEASED["ERNIE-4.5-0.3B"].fields, "num_hidden_layers": 1, "vocab_size": 640}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    check_model(tmp_path, {"device": "cpu", "load_choices": "dummy"})


def test_a_broken_chat_template_is_refused(tmp_path: Path) -> None:
    parameters = {"device": "cpu", "chat_template": "{% if %}"}
    with pytest.raises(CommandError, match=r"chat_template .*Jinja"):
        check_model(DATA / "dense", parameters)


def test_a_model_that_was_cut_for_other_ranks_is_refused(tmp_path: Path) -> None:
    directory = make("moe_tp", tmp_path / "q", "w4a8", has_cache_scales=False, ranks=4)
    shutil.copy(DATA / "tokenizer.json", directory)
    for parameters in ({}, {"enable_expert_parallel": "true"}):
        with pytest.raises(CommandError, match=r"4 ranks .*tensor_parallel_size is 2"):
            check_model(directory, {"device": "cpu", "tensor_parallel_size": "2", **parameters})
        check_model(directory, {"device": "cpu", "tensor_parallel_size": "4", **parameters})
