"""The sentence that comes out of a failed load, and when a stub is given up."""

from __future__ import annotations

import pytest

from ernie_cli.triton.model_control import SILENCE_LIMIT_S, EngineDied, FailureDetector, load_error
from ernie_frontend.triton.call_errors import TritonUnreachable
from ernie_wire.errors import EngineCrashed, InternalError


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
    assert load_error(said).message == sentence


@pytest.mark.parametrize(
    ("told", "is_silent"), [(EngineCrashed("it died", exit_signal=9), True), (InternalError("it died"), False)]
)
def test_the_fields_of_the_engines_error_come_out_too(told: InternalError, is_silent: bool) -> None:
    error = load_error(
        f"load failed: TritonModelException: {told.to_line()}\n\nAt:\n  /x/triton_model.py(47)\n"
    )
    assert (error.message, error.exit_signal) == ("it died", told.exit_signal)
    assert isinstance(error, EngineDied) == is_silent


def test_a_dead_stub_is_given_up_after_two_answers_that_say_so() -> None:
    detector = FailureDetector(0.0)
    assert not detector.has_failed(InternalError("the stub is not healthy"), 1.0)
    assert detector.has_failed(InternalError("the stub is not healthy"), 2.0)


def test_a_silent_stub_is_given_up_late_and_forgiven_when_it_speaks() -> None:
    silent = TritonUnreachable("nothing came in time")
    detector = FailureDetector(0.0)
    assert not any(detector.has_failed(silent, float(second)) for second in range(int(SILENCE_LIMIT_S)))
    assert not detector.has_failed(None, SILENCE_LIMIT_S)
    assert not detector.has_failed(silent, SILENCE_LIMIT_S + 1)
    assert detector.has_failed(silent, 2 * SILENCE_LIMIT_S)
