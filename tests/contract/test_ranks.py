"""Engines of several ranks: their tokens are those of one rank, and they end together, with the cause."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ernie_wire.messages import Fault, GenerateRequest, Outputs, Starting
from ernie_wire.sampling import SamplingParameters
from numerics.golden import FAMILIES, MOVED_CODE_TOLERANCE, checkpoint
from support.checkpoints.quantized_checkpoints import make
from support.engine_process import Engine
from support.paths import DATA
from support.rank_engines import (
    DEADLINE_S,
    answers,
    assert_goldens,
    fault,
    prompts_and_answers,
    rank_processes,
    start,
    submit,
    wait_for_the_end_of,
)
from support.vision_model import picture, vision_model


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Two ranks of the dense model that are generating."""
    with start("dense", 2) as running:
        running.ready()
        prompt, _ = prompts_and_answers("dense")[2]
        running.send(submit("long", prompt, max_tokens=1500))
        while not isinstance(running.receive(), Outputs):
            pass
        yield running
        running.process.kill()


@pytest.mark.parametrize(
    ("family", "ranks", "parameters"),
    [
        ("dense", 2, {}),
        pytest.param("moe300b", 2, {"enable_expert_parallel": "true"}, marks=pytest.mark.full),
        pytest.param("moe", 2, {"enable_expert_parallel": "true"}, marks=pytest.mark.full),
        pytest.param("moe_tp", 4, {}, marks=pytest.mark.full),
        pytest.param("dense", 2, {"device": "reference"}, marks=pytest.mark.full),
        pytest.param("moe300b", 2, {}, marks=pytest.mark.full),
        pytest.param("moe_tp", 2, {}, marks=pytest.mark.full),
        pytest.param("moe_tp", 2, {"enable_expert_parallel": "true"}, marks=pytest.mark.full),
    ],
)
def test_ranks_give_the_tokens_of_the_goldens(family: str, ranks: int, parameters: dict[str, str]) -> None:
    with start(family, ranks, **parameters) as engine:
        engine.ready()
        started = rank_processes(engine)
        assert len(started) == ranks - 1
        assert_goldens(engine, family)
    wait_for_the_end_of(started)


def _questions() -> list[GenerateRequest]:
    """Questions about pictures of two colours and two sizes, some of them twice, and one without."""
    red, blue = picture(56, 84, (200, 30, 30)), picture(112, 56, (30, 30, 200))
    asked = []
    for name, media in {"red": [red], "blue": [blue], "both": [red, blue], "again": [red], "none": []}.items():
        parts = [{"type": "image_url", "image_url": {"media": index}} for index in range(len(media))]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "what?"}]}]
        sampling = SamplingParameters.from_json({"max_tokens": 8, "temperature": 0, "ignore_eos": True})
        conversation = json.dumps({"messages": messages}).encode()
        asked.append(
            GenerateRequest(name, messages=conversation, media=tuple(media), stream=True, sampling=sampling)
        )
    return asked


@pytest.mark.full
@pytest.mark.parametrize("form", ["ernie-4.5-vl", pytest.param("paddleocr-vl", marks=pytest.mark.full)])
def test_two_ranks_answer_about_pictures_as_one(form: str, tmp_path: Path) -> None:
    directory = vision_model(tmp_path / form, form)
    found = []
    for ranks in (1, 2):
        limits = {"limit_mm_per_prompt": '{"image": 2}', "max_num_batched_tokens": "24"}
        with start("dense", ranks, model=str(directory), **limits) as engine:
            engine.ready()
            for question in _questions():
                engine.send(question)
            outputs = engine.outputs_until(len(_questions()))
        assert all(output.error is None for each in outputs.values() for output in each), outputs
        found.append({name: sum((output.token_ids for output in each), ()) for name, each in outputs.items()})
    assert found[0] == found[1]
    assert found[0]["red"] == found[0]["again"]
    assert len({found[0][name] for name in ("red", "blue", "both", "none")}) == 4


@pytest.mark.full
@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_read_the_paddle_layout(family: str, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint(family, "paddle"), tmp_path / "twin"))
    shutil.copy(DATA / "dense-Paddle" / "tokenizer.model", directory)
    experts = "true" if family == "moe" else "false"
    with start(family, 2, model=str(directory), enable_expert_parallel=experts) as engine:
        engine.ready()
        assert_goldens(engine, family)


@pytest.mark.full
@pytest.mark.parametrize(
    ("family", "quantization", "parameters"),
    [
        ("moe_tp", "wint4", {}),
        pytest.param("moe_tp", "wint8", {}, marks=pytest.mark.full),
        pytest.param("dense", "wint8", {}, marks=pytest.mark.full),
        pytest.param("moe300b", "wint4", {"enable_expert_parallel": "true"}, marks=pytest.mark.full),
    ],
)
def test_ranks_of_a_quantized_model_give_the_tokens_of_one(
    family: str, quantization: str, parameters: dict[str, str]
) -> None:
    prompts = [prompt for prompt, _ in prompts_and_answers(family)]
    found = []
    for ranks in (1, 2):
        with start(family, ranks, quantization=quantization, **parameters) as engine:
            assert engine.ready().description.quantization == quantization
            found.append(answers(engine, prompts))
    assert found[0] == found[1]


@pytest.mark.full
def test_a_grammar_holds_for_ranks_as_for_one() -> None:
    prompts = [prompt for prompt, _ in prompts_and_answers("dense")]
    form = {"regex": "[a-f]{3}(, [a-f]{3}){2,4}"}
    found = []
    for ranks in (1, 2):
        with start("dense", ranks) as engine:
            engine.ready()
            for row, prompt in enumerate(prompts):
                engine.send(submit(str(row), prompt, structured_outputs=form, temperature=1.0, seed=row))
            outputs = engine.outputs_until(len(prompts))
            found.append({name: "".join(each.text for each in outputs[name]) for name in sorted(outputs)})
    assert all(re.fullmatch(form["regex"], text) for text in found[0].values()), found
    assert found[0] == found[1]


@pytest.mark.full
def test_chunks_and_preemption_do_not_change_the_tokens_of_ranks() -> None:
    small = {
        "max_num_batched_tokens": "8",
        "max_model_len": "64",
        "block_size": "8",
        "num_gpu_blocks_override": "12",
    }
    with start("moe_tp", 2, **small) as engine:
        engine.ready()
        assert_goldens(engine, "moe_tp")
        assert "gives up its KV blocks" in engine.close()


@pytest.mark.full
def test_ranks_of_a_checkpoint_that_was_cut_for_them_compute_what_one_rank_does(tmp_path: Path) -> None:
    """W4A8C8: sums in another order may move a code of an expert's input or of the KV cache."""
    directory = make("moe_tp", tmp_path / "q", "w4a8", has_cache_scales=True, ranks=4)
    shutil.copy(DATA / "tokenizer.json", directory)
    found = []
    for ranks, experts in ((1, "false"), (4, "false"), (4, "true")):
        with start("moe_tp", ranks, model=str(directory), enable_expert_parallel=experts) as engine:
            description = engine.ready().description
            assert (description.quantization, description.kv_cache_dtype) == ("w4a8", "int8")
            for row, (prompt, _) in enumerate(prompts_and_answers("moe_tp")):
                engine.send(submit(str(row), prompt, prompt_logprobs=1))
            outputs = engine.outputs_until(4)
        assert [sum(len(each.token_ids) for each in outputs[str(row)]) for row in range(4)] == [32] * 4
        of_prompts = [entry for row in range(4) for entry in outputs[str(row)][0].prompt_logprobs or ()]
        found.append([entry.logprob for entry in of_prompts if entry is not None])
    assert len(found[0]) == 4 + 11 + 22
    for several in found[1:]:
        np.testing.assert_allclose(several, found[0], rtol=0, atol=MOVED_CODE_TOLERANCE)


@pytest.mark.parametrize(
    ("number", "how"),
    [
        (signal.SIGKILL, "SIGKILL"),
        pytest.param(signal.SIGRTMIN + 6, "signal 40", marks=pytest.mark.full),
    ],
)
def test_a_killed_rank_ends_the_engine_with_the_cause(engine: Engine, number: int, how: str) -> None:
    (rank,) = rank_processes(engine)
    os.kill(rank, number)
    assert re.match(rf"rank 1 \(process {rank}\) .*{how}", fault(engine).cause)
    assert engine.process.wait(DEADLINE_S) == 1


@pytest.mark.full
def test_a_stopped_rank_is_killed_and_ends_the_engine(engine: Engine) -> None:
    (rank,) = rank_processes(engine)
    os.kill(rank, signal.SIGSTOP)
    assert re.match(rf"rank 1 \(process {rank}\) .*stopped", fault(engine).cause)
    assert engine.process.wait(DEADLINE_S) == 1
    wait_for_the_end_of([rank])


@pytest.mark.full
def test_no_rank_outlives_a_killed_engine_not_even_a_stopped_one(engine: Engine) -> None:
    (rank,) = rank_processes(engine)
    os.kill(rank, signal.SIGSTOP)
    engine.process.kill()
    wait_for_the_end_of([rank])


@pytest.mark.full
def test_a_rank_that_is_lost_while_it_loads_is_named() -> None:
    with start("dense", 2) as engine:
        until = time.monotonic() + DEADLINE_S
        while not (started := rank_processes(engine)):
            assert time.monotonic() < until
            time.sleep(0.01)
        os.kill(started[0], signal.SIGKILL)
        while isinstance(message := engine.receive(), Starting):
            pass
    assert isinstance(message, Fault), message
    assert re.match(rf"rank 1 \(process {started[0]}\) .*SIGKILL", message.cause)
