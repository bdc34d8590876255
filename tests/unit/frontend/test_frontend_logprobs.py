"""Log probabilities in the shapes of the endpoints, the best of several answers, and their usage."""

from __future__ import annotations

import codecs
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ernie_frontend.translate.openai_logprobs import (
    CompletionLogprobs,
    chat_logprobs,
    joined,
    prompt_logprobs,
    token_text,
)
from ernie_frontend.translate.response_context import UsageCounter, best
from ernie_wire.logprobs import TokenLogprobs, TopLogprob
from ernie_wire.messages import Output


def entry(text: bytes, logprob: float = -1.0, *top: tuple[bytes, float]) -> TokenLogprobs:
    others = tuple(TopLogprob(50 + index, value, text) for index, (text, value) in enumerate(top))
    return TokenLogprobs(7, logprob, text, 2, others)


@pytest.mark.parametrize(
    ("token", "text"), [(b"Hi", "Hi"), ("é".encode(), "é"), (b"\xe4\xb8", "bytes:\\xe4\\xb8"), (b"", "")]
)
def test_the_text_of_a_token(token: bytes, text: str) -> None:
    assert token_text(token) == text


def test_chat_shape() -> None:
    entries = (entry(b"\xe4", -0.5, (b"a", -0.25), (b"\xe4", -0.5), (b"b", -3.0)),)
    assert chat_logprobs(entries, 2) == {
        "content": [
            {
                "token": "bytes:\\xe4",
                "logprob": -0.5,
                "bytes": [0xE4],
                "top_logprobs": [
                    {"token": "a", "logprob": -0.25, "bytes": [97]},
                    {"token": "bytes:\\xe4", "logprob": -0.5, "bytes": [0xE4]},
                ],
            }
        ]
    }
    assert chat_logprobs(entries, 0)["content"][0]["top_logprobs"] == []


def test_prompt_shape() -> None:
    assert prompt_logprobs((None, entry(b"x", -0.5, (b"a", -0.25), (b"b", -3.0))), 1) == [
        None,
        {
            "7": {"logprob": -0.5, "rank": 2, "decoded_token": "x"},
            "50": {"logprob": -0.25, "rank": 1, "decoded_token": "a"},
        },
    ]


def test_completions_shape_and_offsets_over_parts() -> None:
    """The offsets are of characters: a character of three tokens counts once, when it is complete."""
    made = CompletionLogprobs(1)
    first = made.answer((entry(b"Hi", -1.0, (b"Ho", -0.5), (b"Hu", -2.0)), entry(b"\xe4")))
    second = made.answer((entry(b"\xb8"), entry(b"\xad"), entry(b"!")))
    assert joined(first, second) == {
        "tokens": ["Hi", "bytes:\\xe4", "bytes:\\xb8", "bytes:\\xad", "!"],
        "token_logprobs": [-1.0] * 5,
        "top_logprobs": [
            {"Hi": -1.0, "Ho": -0.5},
            {"bytes:\\xe4": -1.0},
            {"bytes:\\xb8": -1.0},
            {"bytes:\\xad": -1.0},
            {"!": -1.0},
        ],
        "text_offset": [0, 2, 2, 2, 3],
    }


def test_a_skipped_token_has_the_offset_of_where_it_would_stand() -> None:
    """Its text counts nowhere, and a character goes on after it."""
    eos = replace(entry(b"</s>"), is_skipped=True)
    made = CompletionLogprobs(0).answer((entry(b"Hi"), eos, entry(b"\xc3"), eos, entry(b"\xa9"), entry(b"!")))
    assert made["tokens"] == ["Hi", "</s>", "bytes:\\xc3", "</s>", "bytes:\\xa9", "!"]
    assert made["text_offset"] == [0, 2, 2, 2, 2, 3]


def test_the_repeated_prompt_begins_with_a_token_without_probability() -> None:
    made = CompletionLogprobs(0)
    first = Output(
        "r", prompt_text="中国 ok", prompt_logprobs=(None, entry("国".encode()), entry(b" ok", -2.0))
    )
    echo = made.echo(first)
    assert echo == {
        "tokens": ["中", "国", " ok"],
        "token_logprobs": [None, -1.0, -2.0],
        "top_logprobs": [None, {"国": -1.0}, {" ok": -2.0}],
        "text_offset": [0, 1, 2],
    }
    assert made.answer((entry(b"."),))["text_offset"] == [5]


def test_the_likelier_of_two_tokens_with_equal_text_has_it_and_none_is_lost() -> None:
    """A piece, the byte token of the same text, and another token that stands for it."""
    letter = TopLogprob(300, -0.125, b"A"), TopLogprob(65, -2.0, b"A"), TopLogprob(9, -5.0, b"A")
    expected = {"A": -0.125, "bytes:\\x41": -2.0, "token_id:9": -5.0}
    for sampled in letter:
        entry_of = TokenLogprobs(sampled.token_id, sampled.logprob, b"A", 1, letter)
        [top] = CompletionLogprobs(3).answer((entry_of,))["top_logprobs"]
        assert list(top.items()) == list(expected.items())
    outside = TokenLogprobs(9, -5.0, b"A", 8, letter[:2])
    assert CompletionLogprobs(1).answer((outside,))["top_logprobs"] == [{"A": -0.125, "bytes:\\x41": -5.0}]


def test_the_place_of_bytes_that_are_no_character() -> None:
    made = CompletionLogprobs(0)
    parts = [made.answer((entry(token),)) for token in (b"Hi", b"\xe4", b"\xb8", b"!", b"\xff", b"\xc3", b"?")]
    assert [part["text_offset"] for part in parts] == [[0], [2], [2], [3], [4], [5], [6]]
    assert b"Hi\xe4\xb8!\xff\xc3?".decode(errors="replace") == "Hi\ufffd!\ufffd\ufffd?"


token_bytes = st.one_of(
    st.text(min_size=1, max_size=3).map(str.encode),
    st.binary(min_size=1, max_size=3),
    st.sampled_from([b"\xe4", b"\xb8", b"\xad", b"\xf0\x9f", b"\x98\x80", b"\xef\xbf", b"\xbd", b"a"]),
)


def places(tokens: list[bytes]) -> list[int]:
    """Return for each token the index of the character that its first byte is in, by one look at all bytes."""
    whole = b"".join(tokens)
    invalid: dict[int, int] = {}

    def note(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        invalid[error.start] = error.end
        return "\ufffd", error.end

    codecs.register_error("note", note)
    character_of: list[int] = []
    for index, character in enumerate(whole.decode("utf-8", "note")):
        start = len(character_of)
        character_of += [index] * (invalid.get(start, start + len(character.encode())) - start)
    return [character_of[start] for start in accumulate(map(len, tokens[:-1]), initial=0)]


@example([b"\xed", b"\xa0", b"\x80", b"a"])
@example([b"\xed", b"\xbf"])
@example([b"\xed\xa0", b"\x80"])
@example([b"\xf1\x80", b"\x80", b"a"])
@given(st.lists(token_bytes, min_size=1, max_size=8))
def test_offsets_are_places_in_the_text(tokens: list[bytes]) -> None:
    assert CompletionLogprobs(0).answer(tuple(map(entry, tokens)))["text_offset"] == places(tokens)


@given(st.lists(token_bytes, min_size=1, max_size=8), st.data())
def test_offsets_are_places_in_the_text_however_it_is_cut(tokens: list[bytes], data: st.DataObject) -> None:
    entries = tuple(entry(token) for token in tokens)
    whole = CompletionLogprobs(0).answer(entries)["text_offset"]
    cut = data.draw(st.integers(0, len(tokens)))
    streamed = CompletionLogprobs(0)
    parts = streamed.answer(entries[:cut]), streamed.answer(entries[cut:])
    assert joined(*parts)["text_offset"] == whole


@given(st.lists(token_bytes, min_size=1, max_size=8), st.lists(token_bytes, min_size=1, max_size=3))
def test_offsets_after_a_repeated_prompt(prompt: list[bytes], answer: list[bytes]) -> None:
    """Of the first token of a prompt only the text is known; prompt and answer are decoded apart."""
    assume(is_text_in(prompt))
    prompt_text = b"".join(prompt).decode(errors="replace")
    made = CompletionLogprobs(0)
    first = Output("r", prompt_text=prompt_text, prompt_logprobs=(None, *map(entry, prompt[1:])))
    assert made.echo(first)["text_offset"] == places(prompt)
    expected = [len(prompt_text) + place for place in places(answer)]
    assert made.answer(tuple(map(entry, answer)))["text_offset"] == expected


def is_text_in(prompt: list[bytes]) -> bool:
    """Whether the bytes of the first token are whole characters, together with those of the next ones."""
    whole = b"".join(prompt)
    for end in range(len(prompt[0]), min(len(prompt[0]) + 3, len(whole)) + 1):
        try:
            whole[:end].decode()
        except UnicodeDecodeError:
            continue
        return True
    return False


def test_the_best_are_the_most_likely_per_token() -> None:
    answers = [
        Output("r", text="long", logprobs=(entry(b"a", -1.0),) * 8),
        Output("r", text="short", logprobs=(entry(b"a", -2.0),)),
        Output("r", text="good", logprobs=(entry(b"a", -0.5),) * 3),
    ]
    assert [answer.text for answer in best([*answers, *reversed(answers)], 3, 2)] == ["good", "long"] * 2
    assert best(answers, 3, 3) == answers


def test_usage_counts_prompts_once_and_what_all_answers_found_in_the_cache() -> None:
    count = UsageCounter(num_candidates=2)
    for index, cached in enumerate((0, 64, 32, 48)):
        count.add(index, Output("r", num_input_tokens=100, num_cached_tokens=cached, num_output_tokens=1))
        count.add(index, Output("r", num_input_tokens=100, num_output_tokens=2))
    usage = count.to_json()
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (200, 12, 212)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 32
