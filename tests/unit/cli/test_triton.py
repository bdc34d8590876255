"""The sentence that comes out of a failed load, and when a stub is given up."""

from __future__ import annotations

import pytest

from ernie_cli.triton import SILENCE_LIMIT_S, Patience, start_error
from ernie_frontend.triton_client import TritonUnreachable
from ernie_wire.errors import InternalError


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "load failed for model 'dense': version 1 is at UNAVAILABLE state: Internal: TritonModelException: "
            "config.json has no hidden_size; give one\n\nAt:\n  /x/triton_model.py(47): initialize\n;\n",
            "config.json has no hidden_size; give one",
        ),
        (
            "load failed for model 'dense': version 1 is at UNAVAILABLE state: Internal: no python backend;\n",
            "Internal: no python backend",
        ),
        ("failed to poll from model repository", "failed to poll from model repository"),
    ],
)
def test_the_engines_sentence_comes_out_of_tritons_wrapping(said: str, sentence: str) -> None:
    assert start_error(said) == sentence


def test_a_dead_stub_is_given_up_after_two_answers_that_say_so() -> None:
    patience = Patience(0.0)
    assert not patience.is_over(InternalError("the stub is not healthy"), 1.0)
    assert patience.is_over(InternalError("the stub is not healthy"), 2.0)


def test_a_silent_stub_is_given_up_late_and_forgiven_when_it_speaks() -> None:
    silent = TritonUnreachable("nothing came in time")
    patience = Patience(0.0)
    assert not any(patience.is_over(silent, float(second)) for second in range(int(SILENCE_LIMIT_S)))
    assert not patience.is_over(None, SILENCE_LIMIT_S)
    assert not patience.is_over(silent, SILENCE_LIMIT_S + 1)
    assert patience.is_over(silent, 2 * SILENCE_LIMIT_S)
