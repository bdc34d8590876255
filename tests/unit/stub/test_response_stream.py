"""Outputs on their way to Triton: merged while a send blocks, ended once, given up when Triton refuses."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ernie_stub.response_stream import ResponseStream, Senders
from ernie_wire.errors import InvalidValue
from ernie_wire.logprobs import TokenLogprobs, TopLogprob, parse_logprobs
from ernie_wire.marked_text import Mark
from ernie_wire.messages import GenerateRequest, Output
from ernie_wire.sampling import SamplingParameters
from fakes.triton_python_backend_utils import ResponseSender

WAIT_S = 60.0
SCORED = SamplingParameters(logprobs=1)


def asking(text_input: str = "Hi: ", **fields: Any) -> GenerateRequest:
    """Return a request that asks for some outputs."""
    return GenerateRequest("r", text_input, **{"exclude_input_in_output": True, **fields})


ALL_OUTPUTS = asking(
    stream=True,
    return_finish_reason=True,
    return_num_input_tokens=True,
    return_num_output_tokens=True,
    return_token_ids=True,
    return_prompt_bytes=True,
    return_marks=True,
)
TAG, TAG_ID = "<nl>", 7


class Work:
    """Collects scheduled work and runs it when told: the sender thread under the test's control."""

    def __init__(self) -> None:
        self.jobs: list[object] = []
        self.abandoned: list[ResponseStream] = []

    def answer(self, request: GenerateRequest) -> tuple[ResponseStream, ResponseSender]:
        sender = ResponseSender()
        return ResponseStream(request, sender, self.jobs.append, self.abandoned.append), sender

    def run(self) -> None:
        while self.jobs:
            job = self.jobs.pop(0)
            assert callable(job)
            job()


def test_outputs_that_gather_during_a_send_become_one_response() -> None:
    senders = Senders(1)
    sender = ResponseSender()
    answer = ResponseStream(ALL_OUTPUTS, sender, senders.bind(), lambda _: None)
    sender.gate.clear()
    begin = Output("r", "a", (1,), 3, 2, prompt_ids=(7, 8, 9), prompt_text="xyz", num_output_tokens=1)
    begin = replace(begin, prompt_bytes=(b"x", b"\xff", b"z"), num_image_tokens=2)
    answer.put(replace(begin, num_reasoning_tokens=1, prompt_tag="<think>"))
    assert sender.sending.wait(WAIT_S)
    answer.put(Output("r", "b", (2, 3), 3, 2, num_output_tokens=2, num_reasoning_tokens=2))
    answer.put(Output("r", "", (4,), 3, num_output_tokens=1, num_reasoning_tokens=1))
    answer.put(Output("r", "c", (5,), 3, finish_reason="stop", num_output_tokens=1))
    sender.gate.set()
    assert sender.finished.wait(WAIT_S)
    senders.close(WAIT_S)
    first, last = (response.values() for response in sender.responses)
    assert first == {
        "text_output": "a",
        "finish_reason": "",
        "num_input_tokens": [3],
        "num_cached_tokens": [2],
        "num_image_tokens": [2],
        "num_video_tokens": [0],
        "num_output_tokens": [1],
        "num_reasoning_tokens": [1],
        "num_accepted_drafts": [0],
        "num_rejected_drafts": [0],
        "output_ids": [1],
        "prompt_ids": [7, 8, 9],
        "prompt_text": "xyz",
        "prompt_bytes": [b"x", b"\xff", b"z"],
        "prompt_tag": "<think>",
    }
    assert last == {
        "text_output": "bc",
        "finish_reason": "stop",
        "num_input_tokens": [3],
        "num_cached_tokens": [2],
        "num_image_tokens": [0],
        "num_video_tokens": [0],
        "num_output_tokens": [4],
        "num_reasoning_tokens": [3],
        "num_accepted_drafts": [0],
        "num_rejected_drafts": [0],
        "output_ids": [2, 3, 4, 5],
    }


def _completed(output: Output) -> Output:
    starts = [each.start() for each in re.finditer(TAG, output.text)]
    marks = tuple(Mark(start, start + len(TAG), TAG_ID) for start in starts)
    return replace(output, marks=marks, num_output_tokens=len(output.token_ids))


texts = st.lists(st.sampled_from([TAG, "a", "é", "😀"]) | st.text(max_size=3), max_size=4).map("".join)
outputs = st.lists(
    st.builds(Output, st.just("r"), texts, st.lists(st.integers(0, 99)).map(tuple), st.just(5)).map(_completed),
    min_size=1,
    max_size=12,
)


@given(outputs, st.data())
def test_however_outputs_are_merged_nothing_is_lost_or_doubled(made: list[Output], data: st.DataObject) -> None:
    made = [*made, Output("r", "end", (1,), 5, finish_reason="length", num_output_tokens=1)]
    work = Work()
    answer, sender = work.answer(ALL_OUTPUTS)
    for output in made:
        answer.put(output)
        if data.draw(st.booleans()):
            work.run()
    work.run()
    sent = [response.values() for response in sender.responses]
    assert "".join(values["text_output"] for values in sent) == "".join(output.text for output in made)
    marked = [values["text_output"][start:end] for values in sent for start, end, _ in values.get("marks", ())]
    assert marked == [TAG for output in made for _ in output.marks]
    token_ids = [token for output in made for token in output.token_ids]
    assert [token for values in sent for token in values["output_ids"]] == token_ids
    assert sum(values["num_output_tokens"][0] for values in sent) == len(token_ids)
    assert [values["finish_reason"] for values in sent] == [""] * (len(sent) - 1) + ["length"]
    assert sender.finished.is_set()


def test_without_stream_one_response_begins_with_the_echo() -> None:
    work = Work()
    answer, sender = work.answer(asking(exclude_input_in_output=False))
    answer.put(Output("r", "a", (1,)))
    work.run()
    assert sender.responses == []
    answer.put(Output("r", "b", (2,), finish_reason="stop"))
    work.run()
    assert sender.texts() == ["Hi: ab"]
    assert sender.finished.is_set()


def test_what_cut_an_answer_is_in_its_last_response() -> None:
    for request, reason in ((asking(return_finish_reason=True), "repetition_detected"), (asking(), None)):
        work = Work()
        answer, sender = work.answer(request)
        answer.put(Output("r", "a"))
        answer.put(Output("r", "a", finish_reason="length", stop_reason="repetition_detected"))
        work.run()
        [response] = sender.responses
        assert response.values().get("stop_reason") == reason


def test_marks_count_characters_of_what_is_sent_in_one_response() -> None:
    for request, marks in (
        (asking(exclude_input_in_output=False, return_marks=True), [[5, 9, 7], [10, 14, 8]]),
        (asking(return_marks=True), [[1, 5, 7], [6, 10, 8]]),
        (asking(exclude_input_in_output=False), None),
    ):
        work = Work()
        answer, sender = work.answer(request)
        answer.put(Output("r", "é<nl>", (1, 7), marks=(Mark(1, 5, 7),)))
        answer.put(Output("r", "a<nl>", (2, 8), marks=(Mark(1, 5, 8),), finish_reason="stop"))
        work.run()
        [response] = sender.responses
        assert response.values().get("marks") == marks
    work = Work()
    answer, sender = work.answer(asking(return_marks=True))
    answer.put(Output("r", "a", finish_reason="stop"))
    work.run()
    assert "marks" not in sender.responses[0].values()


def scored(token_id: int, logprob: float, *top: TopLogprob, rank: int = 1) -> TokenLogprobs:
    return TokenLogprobs(token_id, logprob, b"a", rank, top)


def test_a_cumulative_logprob_counts_all_tokens_so_far_however_they_are_merged() -> None:
    for merged in (False, True):
        work = Work()
        answer, sender = work.answer(asking(stream=True, return_cumulative_logprob=True))
        answer.put(Output("r", "a", (1,), logprobs=(scored(1, -0.5),)))
        if not merged:
            work.run()
        answer.put(Output("r", "b", (2, 3), logprobs=(scored(2, -1.0), scored(3, -2.0))))
        work.run()
        answer.put(Output("r", "", finish_reason="stop"))
        work.run()
        sums = [response.values()["cumulative_logprob"] for response in sender.responses]
        assert sums == [[-0.5]] * (not merged) + [[-3.5], [-3.5]]
        assert not any("logprobs" in response.values() for response in sender.responses), (
            "they were not asked for"
        )


def test_log_probabilities_in_the_form_of_the_vllm_backend() -> None:
    top = (TopLogprob(9, -0.25, b"b"), TopLogprob(8, -0.5, bytes([0xE5])))
    output = Output("r", "a", (1,), logprobs=(scored(1, -1.5, *top, rank=3),), finish_reason="stop")
    for request, expected in (
        (
            asking(sampling=SCORED, return_logprobs=True),
            [
                {
                    "1": {"logprob": -1.5, "rank": 3, "decoded_token": "a"},
                    "9": {"logprob": -0.25, "rank": 1, "decoded_token": "b"},
                    "8": {"logprob": -0.5, "rank": 2, "decoded_token": "\ufffd"},
                }
            ],
        ),
        (asking(return_logprobs=True, return_cumulative_logprob=True), None),
    ):
        work = Work()
        answer, sender = work.answer(request)
        answer.put(output)
        work.run()
        assert json.loads(sender.responses[0].values()["logprobs"]) == expected


def test_an_error_comes_after_the_text_before_it_and_ends_the_answer() -> None:
    work = Work()
    answer, sender = work.answer(asking(stream=True))
    answer.put(Output("r", "a"))
    answer.fail(InvalidValue("too long", "text_input"))
    answer.put(Output("r", "late"))
    answer.fail(InvalidValue("again"))
    work.run()
    assert sender.responses[0].values() == {"text_output": "a"}
    assert sender.error_line() == "invalid_value[text_input]: too long"
    error = sender.responses[1].error()
    assert error is not None
    assert error.code() == "INVALID_ARG"
    assert len(sender.responses) == 2


def test_a_client_that_is_gone_is_reported_and_nothing_is_asked_after_the_end() -> None:
    work = Work()
    answer, sender = work.answer(asking(stream=True))
    answer.poll_cancellation()
    work.run()
    assert work.abandoned == []
    sender.cancelled = True
    answer.poll_cancellation()
    work.run()
    assert work.abandoned == [answer]
    answer.poll_cancellation()
    answer.put(Output("r", "a", finish_reason="stop"))
    work.run()  # the fake fails if it is asked after the final flag
    answer.poll_cancellation()
    work.run()
    assert sender.texts() == ["a"]


def test_when_triton_refuses_a_response_the_request_is_given_up() -> None:
    work = Work()
    answer, sender = work.answer(asking(stream=True))
    sender.sending_fails = True
    answer.put(Output("r", "a"))
    work.run()
    answer.put(Output("r", "b", finish_reason="stop"))
    work.run()
    assert work.abandoned == [answer]
    assert sender.responses == []


def test_no_lock_is_held_while_triton_is_called() -> None:
    work = Work()
    answer, sender = work.answer(asking(stream=True))
    is_free = threading.Event()

    def put_from_another_thread() -> None:
        thread = threading.Thread(target=answer.put, args=(Output("r", "b"),))
        thread.start()
        thread.join(WAIT_S)
        if not thread.is_alive():
            is_free.set()

    sender.on_send = put_from_another_thread
    answer.put(Output("r", "a"))
    job = work.jobs.pop(0)
    assert callable(job)
    job()
    assert is_free.is_set()


def test_logprobs_that_gather_are_joined_and_the_prompt_s_come_once() -> None:
    entries = [TokenLogprobs(each, -0.5, bytes([each]), 1, (TopLogprob(9, -0.1, b"9"),)) for each in range(4)]
    work = Work()
    answer, sender = work.answer(replace(ALL_OUTPUTS, sampling=SCORED))
    answer.put(Output("r", "a", (0,), logprobs=(entries[0],), prompt_logprobs=(None, entries[3])))
    answer.put(Output("r", "b", (1,), logprobs=(entries[1],)))
    work.run()
    answer.put(Output("r", "c", (2,), logprobs=(entries[2],), finish_reason="stop"))
    work.run()
    first, last = (response.values() for response in sender.responses)
    assert parse_logprobs(first["logprobs"]) == tuple(entries[:2])
    assert parse_logprobs(first["prompt_logprobs"]) == (None, entries[3])
    assert parse_logprobs(last["logprobs"]) == (entries[2],)
    assert "prompt_logprobs" not in last
