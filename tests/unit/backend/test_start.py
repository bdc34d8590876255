"""Every setting reaches the part that it is for, and changes what that part does."""

from __future__ import annotations

import logging
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from ernie_backend.devices.backend import Backend
from ernie_backend.errors import StartError
from ernie_backend.parallel import worker
from ernie_backend.service import start
from ernie_backend.service.start import StartedEngine, start_engine
from ernie_backend.weights.checkpoints import quantized_cache
from ernie_kernels.api import Ops
from ernie_kernels.communicator import ProcessGroupConfig
from ernie_wire.errors import InvalidValue
from ernie_wire.messages import GenerateRequest, Output
from ernie_wire.sampling import SamplingParameters
from support.paths import DENSE

PROMPT = tuple(np.random.default_rng(5).integers(3, 640, 20).tolist())


def started(**parameters: str) -> StartedEngine:
    return start_engine(
        {"model": str(DENSE), "device": "cpu", "threads": "1", "weight_cache": "off", **parameters}
    )


def answer(
    engine: StartedEngine, logprobs: int | None = 0, prompt: tuple[int, ...] = PROMPT, length: int = 1
) -> Output:
    """Return the output of greedy tokens, one of them by default."""
    sampling = SamplingParameters(max_tokens=length, temperature=0.0, logprobs=logprobs, ignore_eos=True)
    request = GenerateRequest("r", input_ids=prompt, sampling=sampling, stream=False)
    assert engine.engine.submit(engine.input_processor.process(request)) is None
    outputs: tuple[Output, ...] = ()
    while engine.engine.has_work:
        outputs += engine.engine.step()
    (output,) = outputs
    return output


def first_logprob(**parameters: str) -> float:
    (ranked,) = answer(started(**parameters)).logprobs or ()
    assert ranked is not None
    return ranked.logprob


def test_every_arithmetic_has_numbers_of_its_own() -> None:
    asked: list[dict[str, str]] = [
        {},
        {"dtype": "float32"},
        {"kv_cache_dtype": "int8"},
        {"quantization": "wint8", "activation_dtype": "int16"},
        {"quantization": "wint8", "activation_dtype": "float32"},
        {"quantization": "wint8", "activation_dtype": "int8"},
        {"load_choices": "dummy"},
        {"logprobs_mode": "raw_logits"},
    ]
    assert len({first_logprob(**parameters) for parameters in asked}) == len(asked)


def test_log_probabilities_may_be_refused_or_limited() -> None:
    with pytest.raises(InvalidValue, match="Logprobs is disabled"):
        answer(started(enable_logprob="false"))
    limited = started(max_logprobs="2")
    assert len((answer(limited, 2).logprobs or ())[0].top) == 2  # type: ignore[union-attr]
    with pytest.raises(InvalidValue, match="logprobs"):
        answer(limited, 3)


def test_the_given_template_makes_the_prompt() -> None:
    messages = b'{"messages": [{"role": "user", "content": "b"}]}'
    request = GenerateRequest("r", messages=messages, return_token_ids=True)
    prepared = started(chat_template="a{{ messages[0].content }}c").input_processor.process(request)
    assert prepared.prompt_text == "abc"


def test_the_description_has_what_a_client_needs_to_make_prompts() -> None:
    described = started(chat_template="a{{ messages[0].content }}c").ready.description
    assert described.chat_template == "a{{ messages[0].content }}c"
    assert described.special_tokens["eos_token"] == "</s>"
    assert described.special_tokens["cls_token"] == "<|begin_of_sentence|>"


def test_the_given_parsers_are_described_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        described = started(
            reasoning_parser="ernie_x1", tool_call_parser="ernie-45-vl-thinking"
        ).ready.description
    parsers = (described.reasoning_parser, described.tool_call_parser, described.knows_tools)
    assert parsers == ("ernie-x1", "ernie-45-vl-thinking", False)
    [line] = [each for each in caplog.messages if "parsers" in each]
    assert line == "start: parsers: ernie-x1 for thinking, ernie-45-vl-thinking for tool calls"


def test_speculation_is_logged_with_its_values(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        started(speculative_config='{"method": "ngram", "num_speculative_tokens": 5}')
    [line] = [each for each in caplog.messages if "speculation" in each]
    assert line.startswith(
        'start: speculation: {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup'
    )


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "int8"])
def test_guesses_change_no_answer_whatever_the_cache_keeps(kv_cache_dtype: str) -> None:
    """Wrong guesses stay in the cache until their places are written again."""
    answers = [
        answer(started(kv_cache_dtype=kv_cache_dtype, speculative_config=config), None, (5, 6, 7, 8) * 6, 96)
        for config in ("none", '{"method": "ngram"}')
    ]
    assert answers[0].token_ids == answers[1].token_ids
    assert min(answers[1].num_accepted_drafts, answers[1].num_rejected_drafts) > 0
    assert answers[0].num_accepted_drafts == answers[0].num_rejected_drafts == 0


def test_quantized_weights_are_kept_where_they_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_cache, "MIN_BYTES", 0)
    kept = first_logprob(quantization="wint8", weight_cache=str(tmp_path))
    assert list(tmp_path.rglob("qkv.0.*"))
    assert first_logprob(quantization="wint8", weight_cache=str(tmp_path)) == kept


def test_threads_and_device_choose_the_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[tuple[str, int]] = []
    create_ops = Backend.create_ops

    def recorded(backend: Backend, threads: int, group: ProcessGroupConfig | None = None) -> Ops:
        created.append((backend.name, threads))
        return create_ops(backend, threads, group)

    monkeypatch.setattr(Backend, "create_ops", recorded)
    for device, threads in (("cpu", "3"), ("reference", "1")):
        started(device=device, threads=threads)
    assert created == [("cpu", 3), ("reference", 1)]


def test_the_cache_is_the_part_of_the_memory_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "available_bytes", lambda: 1 << 30)
    monkeypatch.setattr(worker, "resident_bytes", lambda: 0)
    quarter, half, three_quarters = (
        started(gpu_memory_utilization=share, max_num_seqs="4096").ready.description.kv_blocks
        for share in ("0.25", "0.5", "0.75")
    )
    bytes_per_block = 2 * 64 * 2 * 32 * 2 * 3  # keys and values, tokens, heads, their width, bfloat16, layers
    assert half - quarter == pytest.approx((1 << 28) / bytes_per_block, abs=1)
    assert three_quarters - half == pytest.approx(half - quarter, abs=1)
    assert started(num_gpu_blocks_override="40").ready.description.kv_blocks == 40


def test_memory_that_is_gone_when_the_cache_is_reserved_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "available_bytes", Mock(side_effect=[1 << 30, 1 << 20]))
    with pytest.raises(StartError, match=r"256 blocks .*1\.0 MiB"):
        started()
