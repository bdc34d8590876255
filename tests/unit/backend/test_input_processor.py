"""Requests become sequences: prompts, limits, the model's defaults; and the thread that does it."""

from __future__ import annotations

import io
import json
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece

from ernie_backend.chat.template import ChatTemplate
from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.config.generation_config import GenerationConfig
from ernie_backend.engine.input_processor import InputProcessor
from ernie_backend.engine.request_state import RequestState
from ernie_backend.errors import StartError
from ernie_backend.request.media import MediaItem, Medium
from ernie_backend.request.sampling import LogitsProcessor, ResolvedSampling
from ernie_backend.runner.logits_processors import Penalties
from ernie_backend.service.engine_loop import Inbox
from ernie_backend.service.input_thread import InputThread
from ernie_backend.settings.engine_settings import LogprobLimits
from ernie_kernels.sampling import SamplingFilters
from ernie_wire.errors import ContextLengthExceeded, InvalidRequest, InvalidValue, QueueFull
from ernie_wire.messages import Cancel, GenerateRequest, Output
from ernie_wire.repetition import RepetitionDetection
from ernie_wire.sampling import MODEL_DEFAULTS, SamplingParameters
from fakes.sequences import make_request
from support.paths import DENSE
from support.vision_model import media_item

TOKENIZER, TEMPLATE = Tokenizer.from_directory(DENSE), ChatTemplate.from_directory(DENSE)


def _defaults(**sampling: float) -> SamplingParameters:
    return SamplingParameters.from_json({**MODEL_DEFAULTS, **sampling})


DEFAULTS = GenerationConfig(_defaults(temperature=0.8, top_p=0.9, top_k=5), None, (2,))


def _prepare(
    request: GenerateRequest, defaults: GenerationConfig = DEFAULTS, max_model_len: int = 32
) -> RequestState:
    processor = InputProcessor(TOKENIZER, TEMPLATE, defaults, max_model_len, 640)
    assert processor.media_of(request) == []
    return processor.process(request)


def _sampling(defaults: GenerationConfig = DEFAULTS, **asked: object) -> ResolvedSampling:
    request = GenerateRequest("r", input_ids=(5, 6), sampling=SamplingParameters.from_json(asked))
    return _prepare(request, defaults).sequence.sampling


def _chat(content: str) -> bytes:
    return f'{{"messages": [{{"role": "user", "content": "{content}"}}]}}'.encode()


def _nested(levels: int) -> bytes:
    """Return an object with so many levels of nesting."""
    return b'{"messages": ' + b"[" * levels + b"]" * levels + b"}"


def test_the_three_kinds_of_prompt() -> None:
    raw = _prepare(GenerateRequest("r", text_input="Hello, how", return_token_ids=True))
    assert (raw.sequence.prompt_ids, raw.prompt_text) == (TOKENIZER.encode("Hello, how"), "Hello, how")
    ids = _prepare(GenerateRequest("r", input_ids=raw.sequence.prompt_ids, return_token_ids=True))
    assert (ids.sequence.prompt_ids, ids.prompt_text) == (raw.sequence.prompt_ids, "Hello, how")
    chat = _prepare(GenerateRequest("r", messages=_chat("a")))
    assert chat.sequence.prompt_ids == TOKENIZER.encode("<|begin_of_sentence|>User: a\nAssistant: ")
    assert chat.sequence.prompt_ids[0] == 13
    assert chat.prompt_text is None


@pytest.mark.parametrize(
    ("request_", "param", "complaint"),
    [
        (GenerateRequest("r", text_input=""), "text_input", "empty prompt"),
        (GenerateRequest("r", input_ids=()), "input_ids", "input_ids is empty"),
        (
            GenerateRequest("r", input_ids=(1, 640)),
            "input_ids",
            "640",
        ),
        (GenerateRequest("r", input_ids=(-1, 3)), "input_ids", "holds -1"),
        (GenerateRequest("r", text_input="\ud800"), "text_input", "surrogate"),
        (GenerateRequest("r", messages=b'{"messages": []}'), "messages", "at least one message"),
        (GenerateRequest("r", messages=b'{"messages": "hi"}'), "messages", "list in its field messages"),
        (GenerateRequest("r", messages=b"[]"), "messages", "JSON object, not list"),
        (GenerateRequest("r", messages=b"{"), "messages", "not JSON"),
        (GenerateRequest("r", messages=b'{"messages": "\xff"}'), "messages", "not UTF-8"),
        (GenerateRequest("r", messages=_chat("a").decode().encode("utf-16")), "messages", "not UTF-8"),
        (GenerateRequest("r", messages=_chat(r"\ud800")), "messages", "surrogate"),
        (GenerateRequest("r", messages=b"[" * 100_000), "messages", "nested"),
        (GenerateRequest("r", messages=_nested(989)), "messages", "nested"),
        (GenerateRequest("r", messages=_nested(64)), "messages", "nested"),
        (GenerateRequest("r", messages=_nested(63)), "messages", r"messages\[0\]"),
        (
            GenerateRequest("r", messages=_chat("a"), media=(b"\0", b"\xff")),
            "media",
            "2 buffers",
        ),
    ],
)
def test_wrong_prompts(request_: GenerateRequest, param: str, complaint: str) -> None:
    with pytest.raises(InvalidValue, match=complaint) as caught:
        _prepare(request_)
    assert caught.value.param == param


def test_a_prompt_must_leave_room_for_one_token() -> None:
    assert _prepare(GenerateRequest("r", input_ids=(3,) * 31)).sequence.sampling.max_tokens == 1
    with pytest.raises(ContextLengthExceeded, match=r"32 tokens.* 33 tokens \(32 "):
        _prepare(GenerateRequest("r", input_ids=(3,) * 32))
    asked = SamplingParameters(min_tokens=5)
    with pytest.raises(ContextLengthExceeded, match=r"37 tokens \(32 .* 5 "):
        _prepare(GenerateRequest("r", input_ids=(3,) * 32, sampling=asked))
    with pytest.raises(ContextLengthExceeded, match=r"33 tokens \(28 .* 5 ") as caught:
        _prepare(GenerateRequest("r", input_ids=(3,) * 28, sampling=asked))
    assert caught.value.param == "min_tokens"


def test_a_prompt_that_is_not_computed_may_have_any_length() -> None:
    nothing = SamplingParameters(max_tokens=0)
    for ids in ((), (3,) * 32, (3,) * 500):
        prepared = _prepare(GenerateRequest("r", input_ids=ids, sampling=nothing, return_token_ids=True))
        assert prepared.sequence.prompt_ids == ids
        assert prepared.prompt_text == TOKENIZER.decode(ids)
        assert prepared.sequence.sampling.max_tokens == 0
    assert _prepare(GenerateRequest("r", "", sampling=nothing)).sequence.prompt_ids == ()
    with pytest.raises(InvalidValue, match="640"):
        _prepare(GenerateRequest("r", input_ids=(640,), sampling=nothing))
    scored = SamplingParameters(max_tokens=0, prompt_logprobs=0)
    assert (
        _prepare(GenerateRequest("r", input_ids=(3,) * 31, sampling=scored)).sequence.sampling.max_tokens == 0
    )
    with pytest.raises(ContextLengthExceeded):
        _prepare(GenerateRequest("r", input_ids=(3,) * 32, sampling=scored))
    with pytest.raises(InvalidValue, match="empty"):
        _prepare(GenerateRequest("r", input_ids=(), sampling=scored))


def test_no_grammar_is_compiled_for_an_answer_without_tokens() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    messages = [{"role": "user", "content": "a"}]
    forced = json.dumps({"messages": messages, "tools": [tool], "tool_choice": "required"}).encode()
    for sampling in ({}, {"structured_outputs": {"regex": "("}}):
        nothing = SamplingParameters.from_json({"max_tokens": 0, **sampling})
        assert (
            _prepare(GenerateRequest("r", messages=forced, sampling=nothing), max_model_len=99).pending_mask
            is None
        )


def test_a_text_that_cannot_fit_is_not_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = max(len(TOKENIZER.token_bytes(each)) for each in range(TOKENIZER.vocab_size))
    token = next(each for each in range(TOKENIZER.vocab_size) if len(TOKENIZER.token_bytes(each)) == longest)
    fits = TOKENIZER.token_bytes(token).decode() * 31
    assert len(_prepare(GenerateRequest("r", text_input=fits)).sequence.prompt_ids) == 31
    monkeypatch.setattr(Tokenizer, "encode", lambda *_: pytest.fail("it was tokenized"))
    for request, place in (
        (GenerateRequest("r", text_input=fits + "a"), "prompt"),
        (GenerateRequest("r", messages=_chat(fits)), "messages"),
    ):
        with pytest.raises(ContextLengthExceeded, match=rf"\(3[23] .*{place}, 1 "):
            _prepare(request)


@pytest.mark.parametrize(("asked", "kept"), [({}, 31), ({"max_tokens": 4}, 28), ({"min_tokens": 3}, 29)])
def test_a_prompt_is_truncated_to_what_the_answer_leaves(asked: dict[str, int], kept: int) -> None:
    sampling = SamplingParameters.from_json({"truncate_prompt_tokens": -1, **asked})
    ids = tuple(range(3, 103))
    assert _prepare(GenerateRequest("r", input_ids=ids, sampling=sampling)).sequence.prompt_ids == ids[-kept:]
    short = ids[:kept]
    assert _prepare(GenerateRequest("r", input_ids=short, sampling=sampling)).sequence.prompt_ids == short


@pytest.mark.parametrize(("max_new_tokens", "kept"), [(4, 28), (16, 16), (17, 16), (4000, 16)])
def test_a_truncated_prompt_leaves_room_for_the_models_default(max_new_tokens: int, kept: int) -> None:
    request = GenerateRequest("r", input_ids=(3,) * 100, sampling=SamplingParameters(truncate_prompt_tokens=-1))
    prepared = _prepare(request, replace(DEFAULTS, max_new_tokens=max_new_tokens))
    assert len(prepared.sequence.prompt_ids) == kept


@pytest.mark.parametrize("length", [1, 5, 30])
def test_the_last_tokens_of_a_prompt_are_kept(length: int) -> None:
    text = " ".join(f"Hello, how are you number {number}?" for number in range(400))
    sampling = SamplingParameters(truncate_prompt_tokens=length)
    chat = f"<|begin_of_sentence|>User: {text}\nAssistant: "
    for request, whole in (
        (GenerateRequest("r", text, sampling=sampling), text),
        (GenerateRequest("r", messages=_chat(text), sampling=sampling), chat),
        (GenerateRequest("r", input_ids=TOKENIZER.encode(text), sampling=sampling), text),
    ):
        prepared = _prepare(replace(request, return_token_ids=True))
        kept = TOKENIZER.encode(whole)[-length:]
        assert (prepared.sequence.prompt_ids, prepared.prompt_text) == (kept, TOKENIZER.decode(kept))
        with pytest.raises(ContextLengthExceeded):
            _prepare(replace(request, sampling=SamplingParameters()))


def test_only_so_much_of_a_truncated_text_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def encode(_tokenizer: Tokenizer, text: str, origins: bytes | None) -> tuple[int, ...]:
        assert origins is None
        seen.append(len(text))
        return (3, 4, 5)

    monkeypatch.setattr(Tokenizer, "encode", encode)
    sampling = SamplingParameters(truncate_prompt_tokens=2)
    prepared = _prepare(GenerateRequest("r", "a" * 100_000, sampling=sampling))
    assert (seen, prepared.sequence.prompt_ids) == ([3 * TOKENIZER.longest_token_bytes], (4, 5))


@pytest.mark.parametrize("text", ["a b c" + " " * 5000, "a b" + " " * 500 + "c", "a", "a b c " * 500])
@pytest.mark.parametrize("length", [1, 3, 31])
def test_the_last_tokens_are_kept_if_the_tokenizer_drops_spaces(text: str, length: int) -> None:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c"] * 20),
        model_writer=written,
        vocab_size=9,
        hard_vocab_limit=False,
        remove_extra_whitespaces=True,
        minloglevel=2,
    )
    tokenizer = Tokenizer(sentencepiece.SentencePieceProcessor(model_proto=written.getvalue()), {})
    request = GenerateRequest("r", text, sampling=SamplingParameters(truncate_prompt_tokens=length))
    prepared = InputProcessor(tokenizer, TEMPLATE, DEFAULTS, 32, 640).process(request)
    assert prepared.sequence.prompt_ids == tokenizer.encode(text)[-length:]


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"truncate_prompt_tokens": 33}, "at most 32"),
        ({"truncate_prompt_tokens": -1, "max_tokens": 32}, "nothing"),
    ],
)
def test_a_truncation_that_cannot_be_is_refused(asked: dict[str, int], complaint: str) -> None:
    request = GenerateRequest("r", "a", sampling=SamplingParameters.from_json(asked))
    with pytest.raises(InvalidValue, match=complaint) as caught:
        _prepare(request)
    assert caught.value.param == "truncate_prompt_tokens"


def test_a_truncated_prompt_leaves_room_for_an_answer() -> None:
    sampling = SamplingParameters(truncate_prompt_tokens=32)
    assert len(_prepare(GenerateRequest("r", input_ids=(3,) * 31, sampling=sampling)).sequence.prompt_ids) == 31
    with pytest.raises(ContextLengthExceeded, match=r"\(32 "):
        _prepare(GenerateRequest("r", input_ids=(3,) * 40, sampling=sampling))


def test_a_long_list_of_ids_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokenizer, "decode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ContextLengthExceeded, match=r"\(32 "):
        _prepare(GenerateRequest("r", input_ids=(5,) * 32, return_token_ids=True))


def test_the_model_s_defaults_fill_what_is_not_asked() -> None:
    sampling = _sampling()
    assert sampling.filters == SamplingFilters(0.8, 0.0, 5, 0.9)
    assert sampling.eos_token_ids == {2}
    assert sampling.max_tokens == 30, "the rest of the context"
    assert _sampling().seed != sampling.seed, "random without a seed"
    asked = _sampling(temperature=0, top_p=0.0, top_k=0, seed=0, ignore_eos=True, max_tokens=10000)
    assert asked == ResolvedSampling(SamplingFilters(0, 0.0, 0, 0.0), 0, 30, frozenset())


def test_the_rest_of_what_is_asked_is_passed_on() -> None:
    sampling = _sampling(
        min_p=0.1,
        min_tokens=3,
        stop_token_ids=[7],
        include_stop_str_in_output=True,
        logprobs=20,
        prompt_logprobs=0,
    )
    assert (sampling.filters.min_p, sampling.min_tokens, sampling.stop_token_ids) == (0.1, 3, frozenset([7]))
    assert (sampling.includes_stop, sampling.logprobs, sampling.prompt_logprobs) == (True, 20, 0)
    assert _prepare(GenerateRequest("r", input_ids=(5,), priority=-2)).sequence.priority == -2
    assert _prepare(GenerateRequest("r", input_ids=(5,), cache_salt="key")).sequence.cache_salt == "key"


def test_a_loop_is_what_the_request_says_or_else_the_model() -> None:
    page = RepetitionDetection(8, 1, 3, 9)

    def loop(asked: dict[str, int] | None, of_model: RepetitionDetection = page) -> RepetitionDetection | None:
        sampling = SamplingParameters(repetition_detection=asked)
        request = GenerateRequest("r", input_ids=(5,), sampling=sampling)
        return _prepare(request, replace(DEFAULTS, repetition=of_model)).sequence.sampling.repetition

    assert loop(None) == page
    assert loop({"max_pattern_size": 0}) is None
    assert loop({"max_pattern_size": 2, "min_count": 2}) == RepetitionDetection(2, 1, 2, 0)
    assert loop(None, RepetitionDetection()) is None


def test_a_sum_of_log_probabilities_needs_them() -> None:
    def prepared(logprobs: int | None = None) -> RequestState:
        asked = SamplingParameters(logprobs=logprobs)
        return _prepare(GenerateRequest("r", "a", sampling=asked, return_cumulative_logprob=True))

    assert prepared().sequence.sampling.logprobs == 0
    assert prepared(logprobs=3).sequence.sampling.logprobs == 3


def test_media_count_for_what_may_wait() -> None:
    gate, inbox = _Gate(), Inbox()
    thread = InputThread(gate, inbox, 3, _Preparation().begin, max_pending_media_bytes=100)
    for request_id in "ab":
        thread.submit(GenerateRequest(request_id, messages=b"{}", media=(b"x" * 40, b"y" * 20)))
    (refusal,) = inbox.take(10).refusals
    assert refusal.request_id == "b"
    gate.go_on.set()


class _Preparation:
    """Prepares media when a test does."""

    def __init__(self) -> None:
        self.begun: queue.SimpleQueue[Future[tuple[MediaItem, ...]]] = queue.SimpleQueue()
        self.made: list[Future[tuple[MediaItem, ...]]] = []
        self._may_return = threading.Event()
        self._may_return.set()

    def begin(self, media: Sequence[Medium]) -> Future[tuple[MediaItem, ...]]:
        if media[0].data == b"full":
            raise QueueFull("too much")
        future: Future[tuple[MediaItem, ...]] = Future()
        self.made.append(future)
        self.begun.put(future)
        assert self._may_return.wait(10)
        return future

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let nobody know of what was begun until the end."""
        self._may_return.clear()
        yield
        self._may_return.set()


def test_a_request_that_waits_for_its_media_holds_up_no_other_and_can_be_cancelled() -> None:
    gate, inbox, preparation = _Gate(), Inbox(), _Preparation()
    gate.go_on.set()
    thread = InputThread(gate, inbox, 8, preparation.begin)
    for request_id in ("cancelled", "seen", "broken"):
        thread.submit(GenerateRequest(request_id, messages=b"{}", media=(b"x",)))
    thread.submit(GenerateRequest("plain", text_input="x"))
    assert [each.request_id for each in inbox.take(10).requests] == ["plain"]
    cancelled, seen, broken = (preparation.begun.get(timeout=10) for _ in range(3))
    thread.cancel(Cancel("cancelled"))
    assert cancelled.cancelled()
    broken.set_exception(InvalidValue("not an image", "media"))
    (refusal,) = inbox.take(10).refusals
    assert (refusal.request_id, str(refusal.error)[:20]) == ("broken", "invalid_value[media]")
    seen.set_result((media_item("image", (1, 2, 2)),))
    assert [each.request_id for each in inbox.take(10).requests] == ["seen"]
    assert gate.prepared == ["plain", "seen"]
    with preparation.hold():
        thread.submit(GenerateRequest("early", messages=b"{}", media=(b"x",)))
        preparation.begun.get(timeout=10)
        thread.cancel(Cancel("early"))
    thread.submit(GenerateRequest("after", messages=b"{}", media=(b"x",)))
    after = preparation.begun.get(timeout=10)
    assert preparation.made[-2].cancelled()
    assert not after.cancelled()
    thread.submit(GenerateRequest("late", messages=b"{}", media=(b"full",)))
    (refusal,) = inbox.take(10).refusals
    assert str(refusal.error).startswith("queue_full")


def test_numbers_that_stand_for_another() -> None:
    """-1 as vLLM and FastDeploy take it, and seeds below it."""
    assert _sampling(top_k=-1).filters.top_k == -1, "all, not the model's 5"
    assert _sampling(seed=-1).seed != _sampling(seed=-1).seed
    assert (_sampling(seed=-2).seed, _sampling(seed=-(2**63)).seed) == (2**63 - 2, 0)
    everything = SamplingParameters(logprobs=-1, prompt_logprobs=-1)
    request = GenerateRequest("r", input_ids=(5, 6), sampling=everything)
    limits = LogprobLimits(max_logprobs=-1)
    sampling = InputProcessor(TOKENIZER, TEMPLATE, DEFAULTS, 32, 640, limits).process(request).sequence.sampling
    assert (sampling.logprobs, sampling.prompt_logprobs) == (640, 640)


def _processors(defaults: GenerationConfig = DEFAULTS, **asked: object) -> tuple[LogitsProcessor, ...]:
    return _prepare(
        GenerateRequest("r", input_ids=(5, 6), sampling=SamplingParameters.from_json(asked)), defaults
    ).sequence.processors


def _excluded(processors: tuple[LogitsProcessor, ...]) -> list[int]:
    logits = np.zeros(TOKENIZER.vocab_size, np.float32)
    for processor in processors:
        processor.apply(logits)
    excluded: list[int] = np.flatnonzero(np.isneginf(logits)).tolist()
    return excluded


def test_requests_that_change_no_logits_cost_nothing() -> None:
    assert _processors() == ()
    assert _processors(repetition_penalty=1, frequency_penalty=0, logit_bias={}, stop_token_ids=[3]) == ()


def test_bad_words_and_endings_become_tokens() -> None:
    word = "Hello"
    spellings = {TOKENIZER.encode(word), TOKENIZER.encode(" " + word)}
    long = [each for each in spellings if len(each) > 1]
    assert long
    single = sorted(each[0] for each in spellings if len(each) == 1)
    assert _excluded(_processors(bad_words=[word])) == single
    assert _excluded(_processors(bad_words_token_ids=[9, 4])) == [4, 9]
    assert _excluded(_processors(min_tokens=1, stop_token_ids=[11])) == [2, 11]
    assert _excluded(_processors(min_tokens=1, stop_token_ids=[11], ignore_eos=True)) == [11]
    (processor,) = _processors(bad_words=[word])
    for spelling in long:
        for token in spelling[:-1]:
            processor.accept(token)
        assert spelling[-1] in _excluded((processor,))


def test_only_allowed_tokens_are_left() -> None:
    """EOS, which is token 2, only if it is allowed."""
    allowed = [3, 9, 9]
    rest = set(range(TOKENIZER.vocab_size)) - {3, 9}
    assert _excluded(_processors(allowed_token_ids=allowed)) == sorted(rest)
    weakened = _processors(allowed_token_ids=allowed, logit_bias={"3": -100, "4": 100}, repetition_penalty=2)
    assert _excluded(weakened) == sorted(rest), "other fields allow no token"
    assert _excluded(_processors(allowed_token_ids=allowed, bad_words_token_ids=[9])) == sorted(rest | {9})
    ending = _processors(allowed_token_ids=[2, 3], min_tokens=1)
    assert _excluded(ending) == sorted(set(range(TOKENIZER.vocab_size)) - {3})
    for processor in ending:
        processor.accept(3)
    assert _excluded(ending) == sorted(set(range(TOKENIZER.vocab_size)) - {2, 3})


def test_no_place_of_the_answer_excludes_every_token() -> None:
    """A phrase excludes its last token only where the answer ends with the others."""
    word = next(each for each in ("Hello", "question") if len(TOKENIZER.encode(each)) > 1)
    ends = sorted({TOKENIZER.encode(word)[-1], TOKENIZER.encode(" " + word)[-1]})
    others = sorted(set(range(TOKENIZER.vocab_size)) - set(ends))
    rules: list[dict[str, object]] = [{"allowed_token_ids": ends}, {"bad_words_token_ids": others}]
    for asked in rules:
        assert _processors(DEFAULTS, **asked)
        with pytest.raises(InvalidValue, match="exclude") as caught:
            _processors(DEFAULTS, bad_words=[word], **asked)
        assert caught.value.param in asked


def test_rules_for_tokens_that_the_tokenizer_lacks_are_left_out() -> None:
    """The model has rows for them, so they are not refused, but they are never chosen."""
    beyond = TOKENIZER.vocab_size
    request = GenerateRequest(
        "r",
        input_ids=(5, beyond),
        sampling=SamplingParameters(
            logit_bias={beyond: 5.0}, bad_words_token_ids=(beyond,), stop_token_ids=(beyond,), min_tokens=1
        ),
    )
    model = InputProcessor(TOKENIZER, TEMPLATE, GenerationConfig(), 32, beyond + 1)
    assert model.process(request).sequence.processors == ()
    allowed = replace(request, sampling=SamplingParameters(allowed_token_ids=(7, beyond)))
    assert len(_excluded(model.process(allowed).sequence.processors)) == beyond - 1
    nothing = replace(request, sampling=SamplingParameters(allowed_token_ids=(beyond,)))
    with pytest.raises(InvalidValue, match="tokenizer") as caught:
        model.process(nothing)
    assert caught.value.param == "allowed_token_ids"
    penalized = replace(request, sampling=SamplingParameters(repetition_penalty=2.0))
    logits = np.ones(beyond, np.float32)
    (penalties,) = model.process(penalized).sequence.processors
    penalties.apply(logits)
    assert np.flatnonzero(logits != 1).tolist() == [5]


def test_penalties_of_the_model_hold_unless_the_request_has_its_own() -> None:
    defaults = GenerationConfig(_defaults(repetition_penalty=1.5))
    assert [type(each) for each in _processors(defaults)] == [Penalties]
    assert _processors(defaults, repetition_penalty=1.0) == ()


@pytest.mark.parametrize(
    ("asked", "param", "complaint"),
    [
        ({"stop_token_ids": [640]}, "stop_token_ids", "640"),
        ({"bad_words_token_ids": [5, 700]}, "bad_words_token_ids", "holds 700"),
        ({"allowed_token_ids": [5, 640]}, "allowed_token_ids", "holds 640"),
        ({"allowed_token_ids": [5], "bad_words_token_ids": [5, 6]}, "allowed_token_ids", "exclude"),
        ({"allowed_token_ids": [2], "min_tokens": 1}, "allowed_token_ids", "exclude"),
        ({"logit_bias": {"641": 1}}, "logit_bias", "holds 641"),
        ({"logprobs": 21}, "logprobs", "21.*max_logprobs"),
        ({"prompt_logprobs": 50}, "prompt_logprobs", "50"),
        ({"logprobs": -1}, "logprobs", "640"),
        ({"bad_words": ["\ud800"]}, "bad_words", "surrogate"),
        ({"bad_words_token_ids": list(range(640))}, "bad_words_token_ids", "every token"),
        ({"min_tokens": 31}, "min_tokens", r"33 tokens \(2 .* 31 "),
    ],
)
def test_what_the_model_does_not_allow_is_named(asked: dict[str, object], param: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint) as caught:
        _processors(DEFAULTS, **asked)
    assert caught.value.param == param


def test_a_prompt_has_only_so_many_log_probabilities() -> None:
    def prepare(length: int) -> RequestState:
        request = GenerateRequest("r", input_ids=(5,) * length, sampling=SamplingParameters(prompt_logprobs=20))
        return _prepare(request, max_model_len=20000)

    assert prepare(12483).sequence.sampling.prompt_logprobs == 20
    with pytest.raises(InvalidValue, match="12484 tokens") as caught:
        prepare(12484)
    assert caught.value.param == "prompt_logprobs"


def test_log_probabilities_can_be_disabled_and_unlimited() -> None:
    def prepare(limits: LogprobLimits, **asked: object) -> RequestState:
        request = GenerateRequest("r", input_ids=(5,), sampling=SamplingParameters.from_json(asked))
        return InputProcessor(TOKENIZER, TEMPLATE, DEFAULTS, 32, 640, limits).process(request)

    for name in ("logprobs", "prompt_logprobs"):
        with pytest.raises(InvalidValue, match="Logprobs is disabled"):
            prepare(LogprobLimits(enable_logprob=False), **{name: 0})
    assert prepare(LogprobLimits(max_logprobs=-1), logprobs=640).sequence.sampling.logprobs == 640


def test_max_new_tokens_of_the_model_holds_without_max_tokens() -> None:
    defaults = GenerationConfig(max_new_tokens=7)
    assert _sampling(defaults).max_tokens == 7
    assert _sampling(defaults, max_tokens=9).max_tokens == 9
    assert _sampling(GenerationConfig(max_new_tokens=700)).max_tokens == 30


NEUTRAL: dict[str, Any] = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}


def _generation_config(tmp_path: Path, **values: object) -> GenerationConfig:
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    return GenerationConfig.from_directory(tmp_path, (2,))


def test_generation_config_files(tmp_path: Path) -> None:
    silent = GenerationConfig(SamplingParameters(**NEUTRAL, temperature=1.0, top_p=0.7), None, (2,))
    assert GenerationConfig.from_directory(tmp_path, (2,)) == silent
    assert _generation_config(tmp_path) == silent
    greedy = _generation_config(
        tmp_path, do_sample=False, temperature=0.8, max_new_tokens=64, eos_token_id=[2, 5]
    )
    assert greedy == GenerationConfig(_defaults(temperature=0.0, top_p=0.7), 64, (2, 5))
    more = _generation_config(
        tmp_path, min_p=0.05, repetition_penalty=1.1, frequency_penalty=0.2, presence_penalty=-0.1
    )
    assert (more.sampling.min_p, more.sampling.repetition_penalty) == (0.05, 1.1)
    assert (more.sampling.frequency_penalty, more.sampling.presence_penalty) == (0.2, -0.1)
    assert GenerationConfig.from_directory(DENSE, (2,)) == GenerationConfig(
        _defaults(temperature=0.8, top_p=0.8), None, (2,)
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("top_p", 2),
        ("top_k", "5"),
        ("top_k", float("inf")),
        ("temperature", float("nan")),
        ("max_new_tokens", 1.5),
        ("min_p", 1.5),
        ("repetition_penalty", 0),
        ("repetition_penalty", 0.0005),
        ("presence_penalty", 3),
        ("eos_token_id", "x"),
    ],
)
def test_wrong_generation_config_files(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(StartError, match=name):
        _generation_config(tmp_path, **{name: value})


class _Gate:
    """Prepares a request when it is let through; raises what is asked."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()
        self.prepared: list[str] = []

    def media_of(self, request: GenerateRequest) -> list[Medium]:
        return [Medium(data, "image", {}, "m") for data in request.media]

    def process(self, request: GenerateRequest, items: tuple[MediaItem, ...]) -> RequestState:
        assert len(items) == len(request.media)
        self.began.set()
        assert self.go_on.wait(10)
        self.prepared.append(request.request_id)
        if request.text_input == "wrong":
            raise InvalidValue("no", "text_input")
        if request.text_input == "bug":
            raise ZeroDivisionError
        return make_request(request.request_id, (1,), 1)


def test_a_cancel_overtakes_prompts_that_are_being_prepared() -> None:
    gate, inbox = _Gate(), Inbox()
    thread = InputThread(gate, inbox, 8)
    for request_id in ("slow", "queued", "last"):
        thread.submit(GenerateRequest(request_id, text_input="x"))
    assert gate.began.wait(10)
    thread.cancel(Cancel("slow"))
    thread.cancel(Cancel("queued"))
    gate.go_on.set()
    arrivals = inbox.take(10)
    assert [request.request_id for request in arrivals.requests] == ["last"]
    assert arrivals.cancelled == ()
    assert gate.prepared == ["slow", "last"]
    thread.cancel(Cancel("last"))
    assert inbox.take(10).cancelled == ("last",)


def test_what_waits_to_be_prepared_is_bounded() -> None:
    gate, inbox = _Gate(), Inbox()
    thread = InputThread(gate, inbox, max_pending=3, max_pending_bytes=130)
    thread.submit(GenerateRequest("huge", text_input="x" * 131))  # alone it may be as large as it likes
    assert gate.began.wait(10)
    for request_id, text in (("second", "x"), ("third", "y")):
        thread.submit(GenerateRequest(request_id, text_input=text))
        (refusal,) = inbox.take(10).refusals
        assert str(refusal.error).startswith("queue_full(retry_after_s=1): ")
    thread.cancel(Cancel("huge"))
    for request_id in "abc":
        thread.submit(GenerateRequest(request_id, messages=_chat("x")))
    (refusal,) = inbox.take(10).refusals
    assert refusal.request_id == "c"  # two take 104 of the 130 bytes
    gate.go_on.set()


def test_faults_become_outputs_and_the_thread_lives_on() -> None:
    gate, inbox = _Gate(), Inbox()
    gate.go_on.set()
    thread = InputThread(gate, inbox, 8)
    refusals: list[Output] = []
    for text in ("wrong", "bug"):
        thread.submit(GenerateRequest(text, text_input=text))
        refusals += inbox.take(10).refusals
    assert [output.error and output.error.partition(":")[0] for output in refusals] == [
        "invalid_value[text_input]",
        "internal_error",
    ]
    thread.submit(GenerateRequest("good", text_input="good"))
    assert inbox.take(10).requests[0].request_id == "good"


def test_a_submit_and_its_cancel_in_one_round_come_to_nothing() -> None:
    inbox = Inbox()
    inbox.put(make_request("a", (1,), 1))
    inbox.put(make_request("b", (1,), 1))
    inbox.put(Output("c", error="x: y"))
    inbox.put(Cancel("a"))
    inbox.put(Cancel("c"))
    arrivals = inbox.take(0)
    assert arrivals.cancelled == ("a", "c")
    assert [request.request_id for request in arrivals.requests] == ["b"]
    assert arrivals.refusals == ()
    assert inbox.take(0).cancelled == ()
