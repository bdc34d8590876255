"""The real engine process over a real socketpair, with the dense oracle checkpoint."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ernie_wire.errors import QueueFull, parse_error
from ernie_wire.messages import (
    Cancel,
    GenerateRequest,
    Output,
    Outputs,
    Shutdown,
    StartFailed,
)
from ernie_wire.sampling import SamplingParameters
from support.checkpoints.long_context import LONG_ANSWER, LONG_CONTEXT, with_long_context
from support.engine_process import TIMEOUT_S, Engine
from support.paths import DENSE, ROOT

GOLDEN = np.load(ROOT / "tests" / "data" / "dense.npz")
PROMPTS = [tuple(GOLDEN[f"row{row}.input_ids"].tolist()) for row in range(4)]
GREEDY = [tuple(GOLDEN[f"row{row}.greedy"].tolist()) for row in range(4)]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Parameters of an engine whose answers last until a test ends them."""
    return {
        "model": str(with_long_context(tmp_path_factory.mktemp("model"))),
        "max_model_len": str(LONG_CONTEXT),
    }


@pytest.fixture(scope="module", params=["cpu", "reference"])
def engine(request: pytest.FixtureRequest, lasting: dict[str, str]) -> Iterator[Engine]:
    with Engine(device=str(request.param), **lasting) as running:
        running.ready()
        yield running


def _submit(row: int, *, stream: bool = True, name: str = "row", **sampling: Any) -> GenerateRequest:
    asked = {"max_tokens": 32, "temperature": 0, "ignore_eos": True, **sampling}
    return GenerateRequest(
        f"{name}{row}", input_ids=PROMPTS[row], stream=stream, sampling=SamplingParameters.from_json(asked)
    )


def _tokens(outputs: dict[str, list[Output]]) -> dict[str, tuple[int, ...]]:
    return {name: sum((each.token_ids for each in made), ()) for name, made in sorted(outputs.items())}


def _text(made: list[Output]) -> str:
    return "".join(each.text for each in made)


EXPECTED = {f"row{row}": GREEDY[row] for row in range(4)}


def test_the_description() -> None:
    with Engine(max_model_len="512", max_num_seqs="2", quantization="wint4", dtype="bfloat16") as other:
        described = other.ready().description
        log = other.close()
    assert described.architecture == "Ernie4_5ForCausalLM"
    assert (described.max_model_len, described.max_num_seqs, described.vocab_size) == (512, 2, 640)
    assert (described.quantization, described.dtype, described.device) == (
        "wint8",
        "bfloat16",
        "cpu",
    )
    assert (described.kv_blocks, described.block_size) == (16, 64)
    assert described.generation_config["temperature"] == 0.8
    assert described.root == str(DENSE)
    assert "uses wint8" in log
    assert re.search(r"start: weights on cpu, 1 threads: .* s, .* MiB", log)


def test_all_rows_at_once_are_the_goldens(engine: Engine) -> None:
    for row in range(4):
        engine.send(_submit(row, stream=row % 2 == 0))
    outputs = engine.outputs_until(4)
    assert _tokens(outputs) == EXPECTED
    assert len(outputs["row0"]) == 32
    assert len(outputs["row1"]) == 1
    assert {made[-1].finish_reason for made in outputs.values()} == {"length"}


def test_alone_is_the_same_as_in_the_batch(engine: Engine) -> None:
    for row in range(4):
        engine.send(_submit(row))
        assert _tokens(engine.outputs_until(1)) == {f"row{row}": GREEDY[row]}


def test_a_seed_repeats_alone_and_in_company(engine: Engine) -> None:
    hot: dict[str, Any] = {"temperature": 1.5, "top_p": 0.95, "seed": 42}
    engine.send(_submit(2, name="alone", **hot))
    alone = _tokens(engine.outputs_until(1))["alone2"]
    for row in range(4):
        engine.send(_submit(row, name="hot", **hot))
        engine.send(_submit(row))
    together = _tokens(engine.outputs_until(8))
    assert together["hot2"] == alone
    assert alone != GREEDY[2]
    engine.send(_submit(2, name="other", **{**hot, "seed": 43}))
    assert _tokens(engine.outputs_until(1))["other2"] != alone


def test_stop_strings_and_text(engine: Engine) -> None:
    engine.send(_submit(2, stream=False))
    whole = _text(engine.outputs_until(1)["row2"])
    stop = " three three"
    engine.send(_submit(2, stop=stop))
    outputs = engine.outputs_until(1)["row2"]
    assert stop in whole
    assert _text(outputs) == whole[: whole.index(stop)]
    assert outputs[-1].finish_reason == "stop"


def test_log_probabilities_come_with_every_token_and_with_the_prompt(engine: Engine) -> None:
    engine.send(_submit(2, logprobs=2, prompt_logprobs=1))
    made = engine.outputs_until(1)["row2"]
    entries = [entry for output in made for entry in output.logprobs or ()]
    assert tuple(entry.token_id for entry in entries if entry) == GREEDY[2]
    assert all(entry is not None and entry.rank == 1 and len(entry.top) == 2 for entry in entries)
    assert b"".join(entry.text_bytes for entry in entries if entry).decode(errors="replace") == _text(made)
    prompt = made[0].prompt_logprobs or ()
    assert [entry and entry.token_id for entry in prompt] == [None, *PROMPTS[2][1:]]


def test_what_is_asked_of_the_sampler_reaches_it(engine: Engine) -> None:
    first = GREEDY[2][0]
    engine.send(_submit(2, name="banned", bad_words_token_ids=[first]))
    engine.send(_submit(2, name="biased", logit_bias={"77": 100}, max_tokens=3))
    engine.send(_submit(2, name="stopped", stop_token_ids=[first]))
    engine.send(_submit(2, name="longer", stop_token_ids=[first], min_tokens=4))
    engine.send(_submit(2, name="varied", presence_penalty=2, frequency_penalty=2, repetition_penalty=3))
    engine.send(_submit(2))
    tokens = _tokens(engine.outputs_until(6))
    assert first not in tokens["banned2"]
    assert tokens["biased2"] == (77, 77, 77)
    assert tokens["stopped2"] == (first,)
    assert len(tokens["longer2"]) > 4
    assert first not in tokens["longer2"][:4]
    assert len(set(tokens["varied2"])) > len(set(GREEDY[2]))
    assert tokens["row2"] == GREEDY[2], "nobody else is touched"


def test_wrong_requests_fail_alone(engine: Engine) -> None:
    engine.send(_submit(3))
    engine.send(GenerateRequest("long", input_ids=(5,) * LONG_CONTEXT))
    engine.send(_submit(2, logprobs=21))
    engine.send(GenerateRequest("role", messages=b'{"messages": [{"role": "king"}]}'))
    outputs = engine.outputs_until(4)
    assert str(outputs["row2"][0].error).startswith(
        "invalid_value[logprobs]: logprobs is 21; it must be at most 20"
    )
    assert _tokens({"row3": outputs["row3"]}) == {"row3": GREEDY[3]}
    assert str(outputs["long"][0].error).startswith(
        f"context_length_exceeded[input_ids]: This model's maximum context length is {LONG_CONTEXT} tokens. "
        f"However, you requested {LONG_CONTEXT + 1} tokens ({LONG_CONTEXT} in the prompt, 1 in the completion)."
    )
    assert str(outputs["role"][0].error).startswith("invalid_value[messages]: messages[0].role")


def test_a_cancel_mid_stream_frees_the_blocks(engine: Engine) -> None:
    engine.send(_submit(0, max_tokens=LONG_ANSWER))
    while not isinstance(engine.receive(), Outputs):
        pass
    engine.send(Cancel("row0"))
    engine.send(Cancel("nobody"))
    while (beat := engine.heartbeat()).running:
        pass
    assert (beat.waiting, beat.free_blocks) == (0, beat.total_blocks)
    assert beat.steps < LONG_ANSWER / 2
    engine.send(_submit(1))
    assert _tokens(engine.outputs_until(1)) == {"row1": GREEDY[1]}


def test_an_idle_engine_gives_signs_of_life(engine: Engine) -> None:
    first, second = engine.heartbeat(), engine.heartbeat()
    assert first.steps == second.steps


@pytest.mark.parametrize("chunk", ["1", "3", "7"])
def test_prompt_chunks_do_not_change_the_answer(chunk: str) -> None:
    with Engine(max_num_batched_tokens=chunk) as engine:
        engine.ready()
        for row in range(4):
            engine.send(_submit(row))
        assert _tokens(engine.outputs_until(4)) == EXPECTED


def test_preemption_does_not_change_the_answer() -> None:
    with Engine(block_size="4", num_gpu_blocks_override="16", max_model_len="64") as engine:
        engine.ready()
        for row in range(4):
            engine.send(_submit(row))
        assert _tokens(engine.outputs_until(4)) == EXPECTED
        while (beat := engine.heartbeat()).running:
            pass
        assert beat.free_blocks == 16
        assert "gives up its KV blocks" in engine.close()


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_the_prefix_cache_does_not_change_the_answer(enabled: str) -> None:
    with Engine(block_size="4", enable_prefix_caching=enabled) as engine:
        engine.ready()
        for _ in range(2):
            for row in range(4):
                engine.send(_submit(row))
            outputs = engine.outputs_until(4)
            assert _tokens(outputs) == EXPECTED
        hits = {name: made[0].num_cached_tokens for name, made in outputs.items()}
        full = {f"row{row}": (len(PROMPTS[row]) - 1) // 4 * 4 for row in range(4)}
        assert hits == (full if enabled == "true" else dict.fromkeys(full, 0))
        while (beat := engine.heartbeat()).running:
            pass
        assert (beat.prefix_cache_hits > 0) == (enabled == "true")


def test_an_int8_kv_cache_serves() -> None:
    with Engine(kv_cache_dtype="int8", dtype="bfloat16") as engine:
        assert engine.ready().description.kv_cache_dtype == "int8"
        engine.send(_submit(0))
        assert len(_tokens(engine.outputs_until(1))["row0"]) == 32


def test_a_full_queue_says_when_to_come_again(lasting: dict[str, str]) -> None:
    with Engine(max_num_seqs="1", max_num_waiting_tokens="1", **lasting) as engine:
        engine.ready()
        for name in ("one", "two", "three"):  # one runs, one waits; which ones depends on when a step begins
            engine.send(_submit(0, name=name, max_tokens=LONG_ANSWER, stream=False))
        refused = next(iter(engine.outputs_until(1).values()))
        error = parse_error(str(refused[0].error))
        assert isinstance(error, QueueFull)
        assert "max_num_waiting_tokens 1" in error.message
        assert error.retry_after_s >= 1


@pytest.mark.parametrize("how", ["end of file", "shutdown", "end of file while it starts"])
def test_the_engine_ends_with_its_stub(how: str) -> None:
    with Engine() as engine:
        if how != "end of file while it starts":
            engine.ready()
            engine.send(_submit(0, max_tokens=2000))
        if how == "shutdown":
            engine.send(Shutdown())
            assert engine.process.wait(TIMEOUT_S) == 0
        log = engine.close()
        assert engine.process.returncode == 0
        assert "Traceback" not in log


def test_signals() -> None:
    with Engine() as engine:
        engine.ready()
        engine.process.send_signal(signal.SIGINT)
        engine.send(_submit(1))
        assert _tokens(engine.outputs_until(1)) == {"row1": GREEDY[1]}
        engine.process.send_signal(signal.SIGTERM)
        assert engine.process.wait(TIMEOUT_S) == -signal.SIGTERM
        assert "Traceback" not in engine.close()


def _without_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.model").unlink()


def _truncated(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.chmod(0o644)
    os.truncate(path, 1000)


def _unknown_architecture(directory: Path) -> None:
    (directory / "config.json").unlink()
    config = json.loads((DENSE / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_without_tokenizer, "has no tokenizer"),
        (_truncated, "model.safetensors"),
        (_unknown_architecture, "LlamaForCausalLM"),
    ],
)
def test_a_wrong_directory_is_one_clear_line(tmp_path: Path, damage: object, complaint: str) -> None:
    directory = tmp_path / "model"
    shutil.copytree(DENSE, directory)
    assert callable(damage)
    damage(directory)
    with Engine(model=str(directory)) as engine:
        _assert_start_fails(engine, complaint)


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"model": "/nowhere"}, "/nowhere does not exist"),
        ({"max_num_seqs": "0"}, "max_num_seqs is 0"),
        (
            {"tensor_parallel_size": "8"},
            "which does not divide 4 query heads",
        ),
        ({"gpu_memory_utilization": "0.0000001"}, "settings that fit: gpu_memory_utilization 0."),
    ],
)
def test_wrong_settings_are_one_clear_line(parameters: dict[str, str], complaint: str) -> None:
    with Engine(**parameters) as engine:
        _assert_start_fails(engine, complaint)


def test_a_fault_of_ours_while_starting_is_one_line_too(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(DENSE, directory)
    fields = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**fields, "rope_theta": 10**400}))
    with Engine(model=str(directory)) as engine:
        message = engine.receive()
        assert isinstance(message, StartFailed), message
        assert "\n" not in message.error
        assert message.error.startswith("OverflowError: ")
        assert engine.process.wait(TIMEOUT_S) == 1


def _assert_start_fails(engine: Engine, complaint: str) -> None:
    message = engine.receive()
    assert isinstance(message, StartFailed)
    assert complaint in message.error
    assert "\n" not in message.error
    assert engine.process.wait(TIMEOUT_S) == 1
    log = engine.close()
    assert "Traceback" not in log
    assert message.error in log
