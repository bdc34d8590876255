"""Special tokens are left out of an answer's text, structural ones are marked in it; both by token id."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.chat.template import ChatTemplate
from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.config.generation_config import GenerationConfig
from ernie_backend.engine.input_processor import InputProcessor
from ernie_backend.engine.request_state import RequestState
from ernie_backend.runner.logprobs import ScoredToken
from ernie_backend.runner.sampler import SampledToken
from ernie_wire.marked_text import Mark, MarkedText, joined
from ernie_wire.messages import GenerateRequest, Output
from ernie_wire.sampling import SamplingParameters
from support.paths import DENSE

TOKENIZER = Tokenizer.from_directory(DENSE)
EOS, CLS, PICTURE = 2, 13, 21
THINK, END_OF_THINK, LOC_0 = (TOKENIZER.encode(text)[0] for text in ("<think>", "</think>", "<|LOC_0|>"))
HI, SAME_CHARACTERS = TOKENIZER.encode("Hi"), (*TOKENIZER.encode("<"), *TOKENIZER.encode("think>"))
E_ACUTE = tuple(
    next(each for each in range(TOKENIZER.vocab_size) if TOKENIZER.token_bytes(each) == bytes([byte]))
    for byte in "é".encode()
)
TEXTS = {THINK: "<think>", END_OF_THINK: "</think>", LOC_0: "<|LOC_0|>"}


def _tokenizer(tmp_path: Path, **files: object) -> Tokenizer:
    shutil.copy(DENSE / "tokenizer.model", tmp_path / "tokenizer.model")
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return Tokenizer.from_directory(tmp_path)


def _texts(tokenizer: Tokenizer, ids: frozenset[int]) -> set[str]:
    return {tokenizer.token_bytes(each).decode() for each in ids}


def test_the_kinds_of_a_directory_like_those_of_ernie_4_5() -> None:
    """Names in tokenizer_config.json, a list in special_tokens_map.json that holds tags, too."""
    special = _texts(TOKENIZER, TOKENIZER.special_ids)
    assert {"<unk>", "<s>", "</s>", "<|begin_of_sentence|>", "<|end_of_sentence|>", "<mask:1>"} < special
    assert {"<|IMAGE_PLACEHOLDER|>", "<|IMAGE_START|>", "<|VIDEO_END|>", "<|CROP_COL_SEP|>"} < special
    tags = ["think", "response", "tool_call", "tool_output"]
    assert _texts(TOKENIZER, TOKENIZER.structural_ids) == {
        *(f"<{end}{tag}>" for tag in tags for end in ("", "/")),
        *(f"<|LOC_{each}|>" for each in (0, 1, 2, 3, "BEGIN", "END", "SEP")),
    }
    assert not special & _texts(TOKENIZER, TOKENIZER.structural_ids)


def test_the_kinds_of_a_directory_like_that_of_paddleocr(tmp_path: Path) -> None:
    """Tags of tables that are not special, tags of places that are, in added_tokens_decoder."""
    tags = ["<fcel>", "<nl>", "<|LOC_4|>", "<|TEXT_START|>"]
    added = {text: {"content": text, "special": text.startswith("<|")} for text in [*tags, "<|PAD|>", "10"]}
    decoder = {str(562 + index): each for index, each in enumerate(added.values())}
    tokenizer = _tokenizer(tmp_path, tokenizer_config={"added_tokens_decoder": decoder})
    assert set(tags) < _texts(tokenizer, tokenizer.structural_ids)
    assert _texts(tokenizer, tokenizer.special_ids) == {"<unk>", "<s>", "</s>", "<|PAD|>"}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"sys_start_token": "<mask:4>"}},
        {"tokenizer_config": {"cls_token": {"content": "<mask:4>", "lstrip": False}}},
        {"tokenizer_config": {"additional_special_tokens": ["<mask:4>"]}},
        {"tokenizer_config": {"extra_special_tokens": {"image_token": "<mask:4>"}}},
        {"tokenizer_config": {"added_tokens_decoder": {"17": {"content": "<mask:4>", "special": True}}}},
        {"special_tokens_map": {"additional_special_tokens": [{"content": "<mask:4>"}]}},
        {"special_tokens_map": {"mask_token": "<mask:4>"}, "added_tokens": {"<x>": 600}},
    ],
)
def test_every_way_to_call_a_token_special(tmp_path: Path, files: dict[str, object]) -> None:
    tokenizer = _tokenizer(tmp_path, **files)
    assert _texts(tokenizer, tokenizer.special_ids) == {"<unk>", "<s>", "</s>", "<mask:4>"}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"additional_special_tokens": None, "add_bos_token": True, "chat_template": "a"}},
        {"tokenizer_config": {"added_tokens_decoder": {"3": {"content": "0", "special": False}, "4": "1"}}},
        {"special_tokens_map": {"mask_token": "no token of this model"}},
        {"added_tokens": {"<x>": 600}},
    ],
)
def test_what_calls_no_token_special(tmp_path: Path, files: dict[str, object]) -> None:
    tokenizer = _tokenizer(tmp_path, **files)
    assert _texts(tokenizer, tokenizer.special_ids) == {"<unk>", "<s>", "</s>"}


def _request(**asked: Any) -> RequestState:
    template = ChatTemplate.from_directory(DENSE)
    defaults = GenerationConfig(eos_token_ids=(EOS,))
    sampling = SamplingParameters.from_json(asked)
    request = GenerateRequest("r", input_ids=(CLS, *HI), sampling=sampling, stream=True, return_token_ids=True)
    return InputProcessor(TOKENIZER, template, defaults, 2048, 640).process(request)


def _answer(token_ids: tuple[int, ...], **asked: Any) -> list[Output]:
    """Return the outputs of an answer of which the model chooses the tokens, as many as it may."""
    request = _request(**{"max_tokens": len(token_ids), **asked})
    outputs = []
    for token_id in token_ids:
        scored = ScoredToken(token_id, -1.0, 1, ()) if request.sequence.sampling.logprobs is not None else None
        output = request.advance([SampledToken(token_id, scored)])
        assert output is not None
        outputs.append(output)
        if output.is_last:
            break
    assert outputs[-1].is_last
    return outputs


def _merged(outputs: list[Output]) -> Output:
    text = joined(outputs)
    return replace(
        outputs[-1],
        text=text.text,
        marks=text.marks,
        token_ids=tuple(each for output in outputs for each in output.token_ids),
        logprobs=tuple(each for output in outputs for each in output.logprobs or ()),
    )


def test_special_tokens_are_no_text_but_tokens_with_log_probabilities() -> None:
    token_ids = (*HI, EOS, CLS, PICTURE, *HI, 0)
    answer = _merged(_answer(token_ids, ignore_eos=True, logprobs=0))
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("HiHi", token_ids, "length")
    entries = [entry for entry in answer.logprobs or () if entry is not None]
    assert b"".join(entry.text_bytes for entry in entries).decode() == (
        "Hi</s><|begin_of_sentence|><|IMAGE_PLACEHOLDER|>Hi<unk>"
    )
    assert [entry.token_id for entry in entries if entry.is_skipped] == [EOS, CLS, PICTURE, 0]


def test_skip_special_tokens_false_keeps_them() -> None:
    token_ids = (*HI, EOS, CLS, THINK)
    answer = _merged(_answer(token_ids, ignore_eos=True, skip_special_tokens=False, logprobs=0))
    assert answer.text == "Hi</s><|begin_of_sentence|><think>"
    assert answer.marks == (Mark(27, 34, THINK),)
    assert not any(entry.is_skipped for entry in answer.logprobs or () if entry)


def test_an_end_of_sequence_token_that_no_file_calls_special_is_left_out_too() -> None:
    template = ChatTemplate.from_directory(DENSE)
    defaults = GenerationConfig(eos_token_ids=(HI[0],))
    request = GenerateRequest("r", text_input="a", sampling=SamplingParameters(max_tokens=2, ignore_eos=True))
    state = InputProcessor(TOKENIZER, template, defaults, 2048, 640).process(request)
    state.advance([SampledToken(HI[0])])
    output = state.advance([SampledToken(CLS)])
    assert output is not None
    assert (output.text, output.token_ids) == ("", (HI[0], CLS))


def test_the_same_characters_of_ordinary_tokens_have_no_mark() -> None:
    answer = _merged(_answer((*SAME_CHARACTERS, THINK, LOC_0)))
    assert answer.text == "<think><think><|LOC_0|>"
    assert answer.marks == (Mark(7, 14, THINK), Mark(14, 23, LOC_0))


def test_a_character_goes_on_after_a_special_token_and_ends_at_a_structural_one() -> None:
    first, second = E_ACUTE
    assert _merged(_answer((first, CLS, second))).text == "é"
    broken = _merged(_answer((first, THINK, second)))
    assert (broken.text, broken.marks) == ("\ufffd<think>\ufffd", (Mark(1, 8, THINK),))


def test_the_prompt_keeps_its_special_tokens() -> None:
    assert _answer(HI)[0].prompt_text == "<|begin_of_sentence|>Hi"


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({}, "Hi"),
        ({"include_stop_str_in_output": True}, "Hi"),
        ({"skip_special_tokens": False}, "Hi"),
        ({"include_stop_str_in_output": True, "skip_special_tokens": False}, "Hi{}"),
    ],
)
def test_a_special_token_that_ends_the_answer(asked: dict[str, Any], text: str) -> None:
    """As vLLM: ``include_stop_str_in_output`` makes it a token like the others, which is skipped or not."""
    by_eos = _merged(_answer((*HI, EOS, *HI), **asked))
    assert (by_eos.text, by_eos.finish_reason) == (text.format("</s>"), "stop")
    by_stop = _merged(_answer((*HI, CLS, *HI), stop_token_ids=[CLS], **asked))
    assert (by_stop.text, by_stop.token_ids) == (text.format("<|begin_of_sentence|>"), (*HI, CLS))


def test_a_structural_token_that_ends_the_answer_is_marked() -> None:
    asked = {"stop_token_ids": [END_OF_THINK], "include_stop_str_in_output": True}
    answer = _merged(_answer((*HI, END_OF_THINK), **asked))
    assert (answer.text, answer.marks) == ("Hi</think>", (Mark(2, 10, END_OF_THINK),))


def test_stop_texts_are_found_in_the_text_without_special_tokens() -> None:
    token_ids = (*HI, EOS, *HI, *HI)
    asked: dict[str, Any] = {"ignore_eos": True}
    assert _merged(_answer(token_ids, stop="</s>", **asked)).text == "HiHiHi"
    assert _merged(_answer(token_ids, stop="</s>", skip_special_tokens=False, **asked)).text == "Hi"
    assert _merged(_answer(token_ids, stop="iH", **asked)).text == "H"
    assert _merged(_answer(token_ids, stop="iH", skip_special_tokens=False, **asked)).text == "Hi</s>H"


def test_special_tokens_count_for_min_tokens() -> None:
    token_ids = (EOS, CLS, *HI, *HI)
    asked: dict[str, Any] = {"ignore_eos": True, "stop": ["Hi"]}
    last = 1 + len(HI)  # of the first "Hi"
    assert _merged(_answer(token_ids, min_tokens=last, **asked)).text == ""
    assert _merged(_answer(token_ids, min_tokens=last + 1, **asked)).text == "Hi"


KINDS = [
    EOS,
    CLS,
    PICTURE,
    THINK,
    END_OF_THINK,
    LOC_0,
    *E_ACUTE,
    *HI,
    *SAME_CHARACTERS,
    *TOKENIZER.encode("€ok"),
]


@given(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=20).map(tuple),
    st.lists(st.sampled_from(["i", ">x", "k><", "|>o", "think>é", "é", "ok"]), max_size=2),
    st.booleans(),
    st.booleans(),
    st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_marks_point_at_the_right_characters_however_outputs_are_cut_and_joined(
    token_ids: tuple[int, ...], stops: list[str], is_included: bool, skips: bool, joints: list[bool]
) -> None:
    asked = {"stop": stops, "include_stop_str_in_output": is_included, "skip_special_tokens": skips}
    outputs = _answer(token_ids, ignore_eos=True, **asked)
    for output in outputs:
        assert all(output.text[start:end] == TEXTS[token_id] for start, end, token_id in output.marks)
    parts = [outputs[0]]
    for output, is_joined in zip(outputs[1:], joints, strict=False):
        parts[-1:] = [_merged([parts[-1], output])] if is_joined else [parts[-1], output]
    whole, expected = _merged(parts), _expected(token_ids, skips=skips)
    assert expected.text.startswith(whole.text)
    assert whole.marks == tuple(mark for mark in expected.marks if mark.end <= len(whole.text))
    if whole.finish_reason == "length":
        assert whole.text == expected.text


def _expected(token_ids: tuple[int, ...], *, skips: bool) -> MarkedText:
    """The definition: all tokens decoded at once; a mark begins where the tokens before it end."""
    shown = [each for each in token_ids if not (skips and each in TOKENIZER.special_ids)]
    starts = [len(TOKENIZER.decode(shown[:index])) for index in range(len(shown))]
    marks = [
        Mark(start, start + len(TEXTS[each]), each)
        for start, each in zip(starts, shown, strict=True)
        if each in TEXTS
    ]
    return MarkedText(TOKENIZER.decode(shown), tuple(marks))
