"""Requests through the real tritonserver and the real engine: every way gives the same, exact tokens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from ernie_wire.logprobs import parse_logprobs
from support.checkpoints.long_context import LONG_ANSWER, LONG_CONTEXT, with_long_context
from support.paths import DATA
from support.triton_server import TritonServer, add_entry, infer_inputs
from support.waiting import eventually

GOLDENS = np.load(DATA / "dense.npz")
PROMPT = "The capital of France is"
SAMPLING = json.dumps({"max_tokens": 24, "temperature": 0, "ignore_eos": True})
ASK_ALL = {
    "return_finish_reason": True,
    "return_num_input_tokens": True,
    "return_num_output_tokens": True,
    "return_token_ids": True,
}


@pytest.fixture(scope="module")
def server(
    start_tritonserver: Callable[[Path], TritonServer], tmp_path_factory: pytest.TempPathFactory
) -> TritonServer:
    repository = tmp_path_factory.mktemp("repository")
    weights = with_long_context(tmp_path_factory.mktemp("weights"))
    greedy = {"do_sample": False, "max_new_tokens": 64, "eos_token_id": 2}
    (weights / "generation_config.json").write_text(json.dumps(greedy))
    add_entry(repository, "ernie-tiny", model=str(weights), dtype="float32", max_model_len=str(LONG_CONTEXT))
    add_entry(repository, "ernie-bare", model="")
    return start_tritonserver(repository)


def test_text_input_alone_gets_one_response_that_begins_with_it(server: TritonServer) -> None:
    answer = server.generate({"text_input": PROMPT})
    assert answer.status_code == 200
    assert answer.json()["text_output"].startswith(PROMPT)
    assert len(answer.json()["text_output"]) > len(PROMPT)


def test_generate_and_generate_stream_and_grpc_give_the_same_tokens(server: TritonServer) -> None:
    body = {"text_input": PROMPT, "sampling_parameters": SAMPLING, **ASK_ALL}
    whole = server.generate({**body, "exclude_input_in_output": True}).json()
    events = server.generate_stream(body)
    stream = server.stream({**body, "stream": True})
    responses = list(stream.rest())
    stream.close()
    for pieces in (events, responses):
        assert "".join(piece["text_output"] for piece in pieces) == whole["text_output"]
        assert pieces[-1]["finish_reason"] == "length"
    assert len(whole["output_ids"]) == whole["num_output_tokens"] == 24
    assert [token for piece in responses for token in piece["output_ids"]] == whole["output_ids"]
    assert sum(piece["num_output_tokens"][0] for piece in responses) == 24
    assert len(responses) > 1
    assert responses[0]["prompt_ids"] == whole["prompt_ids"]
    assert responses[0]["num_input_tokens"] == [whole["num_input_tokens"]] == [len(whole["prompt_ids"])]


def test_messages_of_any_form_and_media_are_the_engine_s_to_read(server: TritonServer) -> None:
    conversation = [
        {"role": "developer", "content": [{"type": "text", "text": "S"}]},
        {"role": "bot", "content": None, "tool_calls": []},
        {"role": "user", "content": {"type": "text", "text": "é"}},
    ]
    body = {"messages": json.dumps({"messages": conversation}), "return_token_ids": True}
    told = server.generate(body).json()["prompt_text"]
    assert told == "<|begin_of_sentence|>S\nAssistant: <|end_of_sentence|>User: é\nAssistant: "
    for media, complaint in (
        ([bytes(range(256)), b"\xff" * 100_000], "media holds 2 buffers; this model takes only text"),
        ([b"\0", b""], "media[1] has 0 bytes; each must have 1 to 67108864"),
    ):
        stream = server.stream({**body, "media": media})
        assert stream.error().startswith(f"invalid_value[media]: {complaint}")
        stream.close()


def test_log_probabilities_cached_tokens_and_priority(server: TritonServer) -> None:
    sampling = json.dumps({"max_tokens": 5, "ignore_eos": True, "logprobs": 2, "prompt_logprobs": 0})
    body = {"text_input": PROMPT, "sampling_parameters": sampling, "priority": -1, **ASK_ALL}
    whole = server.generate({**body, "exclude_input_in_output": True}).json()
    entries = parse_logprobs(whole["logprobs"])
    assert [entry.token_id for entry in entries if entry] == whole["output_ids"]
    assert (
        b"".join(entry.text_bytes for entry in entries if entry).decode(errors="replace")
        == whole["text_output"]
    )
    prompt = parse_logprobs(whole["prompt_logprobs"])
    assert [entry and entry.token_id for entry in prompt] == [None, *whole["prompt_ids"][1:]]
    assert whole["num_cached_tokens"] == 0
    stream = server.stream({**body, "stream": True})
    responses = list(stream.rest())
    stream.close()
    pieces = [entry for piece in responses for entry in parse_logprobs(piece["logprobs"])]
    assert pieces == list(entries)
    assert [index for index, piece in enumerate(responses) if "prompt_logprobs" in piece] == [0]


@pytest.mark.parametrize(
    ("token_id", "asked", "text", "is_marked"),
    [
        (2, {}, "", False),
        (2, {"skip_special_tokens": False}, "</s>", False),
        (38, {}, "<think>", True),
    ],
)
def test_special_tokens_are_no_text_and_structural_ones_are_marked(
    server: TritonServer, token_id: int, asked: dict[str, Any], text: str, is_marked: bool
) -> None:
    forced = {"max_tokens": 3, "ignore_eos": True, "logit_bias": {str(token_id): 100}, **asked}
    body = {"text_input": PROMPT, "sampling_parameters": json.dumps(forced), "return_marks": True, **ASK_ALL}
    events = server.generate_stream(body)
    assert "".join(event["text_output"] for event in events) == 3 * text
    assert sum(event["num_output_tokens"] for event in events) == 3
    for is_streamed in (False, True):
        stream = server.stream({**body, "stream": is_streamed})
        responses = list(stream.rest())
        stream.close()
        answer = "".join(response["text_output"] for response in responses)
        assert answer == ("" if is_streamed else PROMPT) + 3 * text
        assert [each for response in responses for each in response["output_ids"]] == 3 * [token_id]
        marked = [
            (response["text_output"][start:end], marked_id)
            for response in responses
            for start, end, marked_id in response.get("marks", ())
        ]
        assert marked == (3 * [(text, token_id)] if is_marked else [])


def test_a_cumulative_logprob_and_log_probabilities_as_the_vllm_backend_has_them(server: TritonServer) -> None:
    sampling = json.dumps({"max_tokens": 5, "ignore_eos": True, "logprobs": 1})
    body = {"text_input": PROMPT, "sampling_parameters": sampling, **ASK_ALL, "stream": True}
    asked = server.stream({**body, "return_cumulative_logprob": True, "return_logprobs": True})
    responses = list(asked.rest())
    asked.close()
    so_far = 0.0
    for response in responses:
        for token_id, entry in zip(response["output_ids"], json.loads(response["logprobs"]), strict=True):
            assert entry[str(token_id)]["rank"] == 1, "the model is greedy"
            so_far += entry[str(token_id)]["logprob"]
        assert response["cumulative_logprob"] == [pytest.approx(so_far, rel=1e-6)]
    alone = {"text_input": PROMPT, "max_tokens": 5, "ignore_eos": True, "return_cumulative_logprob": True}
    whole = server.generate(alone).json()
    assert whole["cumulative_logprob"] == pytest.approx(so_far, rel=1e-6)
    assert "logprobs" not in whole


async def test_a_client_of_the_vllm_backend_sends_numbers_as_text(server: TritonServer) -> None:
    """As its samples/client.py: many requests in one stream, the parameters as a tensor and as such."""
    prompts = [PROMPT, "The most dangerous animal is\n"]
    sampling = {"temperature": "0.1", "top_p": "0.95", "max_tokens": "10"}

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number, prompt in enumerate(prompts):
            inputs = {"text_input": prompt, "stream": False, "exclude_input_in_output": False}
            yield {
                "model_name": "ernie-tiny",
                "inputs": infer_inputs({**inputs, "sampling_parameters": json.dumps(sampling)}),
                "outputs": [triton.InferRequestedOutput("text_output")],
                "request_id": str(number),
                "parameters": sampling,
            }

    answers = {}
    async with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            [output] = result.get_response().outputs
            answers[int(result.get_response().id)] = result.as_numpy(output.name)[0].decode()
    assert [len(answers[number]) > len(prompt) for number, prompt in enumerate(prompts)] == [True] * 2
    assert all(answers[number].startswith(prompt) for number, prompt in enumerate(prompts))
    as_parameters = {**sampling, "temperature": "0"}
    as_numbers = {"temperature": 0, "top_p": 0.95, "max_tokens": 10}
    given = [server.generate({"text_input": PROMPT, **each}).json() for each in (as_parameters, as_numbers)]
    assert given[0]["text_output"] == given[1]["text_output"]


@pytest.mark.parametrize("row", range(4))
def test_goldens(server: TritonServer, row: int) -> None:
    stream = server.stream(
        {
            "input_ids": GOLDENS[f"row{row}.input_ids"].tolist(),
            "sampling_parameters": json.dumps({"max_tokens": 32, "ignore_eos": True}),
            "return_token_ids": True,
        }
    )
    assert stream.next()["output_ids"] == GOLDENS[f"row{row}.greedy"].tolist()
    stream.close()


def test_requests_at_once_give_the_goldens_too(server: TritonServer) -> None:
    streams = [
        server.stream(
            {
                "input_ids": GOLDENS[f"row{number % 4}.input_ids"].tolist(),
                "sampling_parameters": json.dumps({"max_tokens": 32, "ignore_eos": True}),
                "stream": True,
                "return_token_ids": True,
                "return_finish_reason": True,
            }
        )
        for number in range(16)
    ]
    for number, stream in enumerate(streams):
        token_ids = [token for piece in stream.rest() for token in piece["output_ids"]]
        assert token_ids == GOLDENS[f"row{number % 4}.greedy"].tolist()
        stream.close()


def long_request(request_id: str) -> dict[str, Any]:
    sampling = json.dumps({"max_tokens": LONG_ANSWER, "ignore_eos": True})
    return {"input_ids": [5], "stream": True, "sampling_parameters": sampling, "request_id": request_id}


def is_idle(server: TritonServer) -> bool:
    health = server.control("health")
    return bool(health["running"] == 0 and health["free_blocks"] == health["total_blocks"] > 0)


def steps_until_idle(server: TritonServer, go: Callable[[], None]) -> int:
    """Return the steps that the engine does after a client goes; a step of the request makes one token."""
    eventually(lambda: bool(server.control("health")["running"] == 1))
    before = int(server.control("health")["steps"])
    go()
    eventually(lambda: is_idle(server))
    return int(server.control("health")["steps"]) - before


def test_a_client_that_goes_away_frees_its_blocks(server: TritonServer) -> None:
    stream = server.stream(long_request("gone"))
    stream.next()
    assert steps_until_idle(server, lambda: stream.close(cancel=True)) < LONG_ANSWER / 2
    assert server.control("cancel", request_id="gone") == {"cancelled": False}


def test_control_cancel_frees_the_blocks(server: TritonServer) -> None:
    stream = server.stream(long_request("cancelled"))
    stream.next()

    def cancel() -> None:
        assert server.control("cancel", request_id="cancelled") == {"cancelled": True}

    assert steps_until_idle(server, cancel) < LONG_ANSWER / 2
    assert "cancelled: " in stream.error()
    stream.close()


def test_an_id_may_not_be_in_flight_twice(server: TritonServer) -> None:
    first = server.stream(long_request("twice"))
    first.next()
    second = server.stream(long_request("twice"))
    assert "invalid_value[request_id]" in second.error()
    second.close()
    first.close(cancel=True)


def test_describe(server: TritonServer) -> None:
    describe = server.control("describe")
    assert (describe["state"], describe["generation"]) == ("ready", 1)
    assert describe["engine"]["architecture"] == "Ernie4_5ForCausalLM"
    assert describe["engine"]["has_tokenizer"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"text_input": "a", "sampling_parameters": "{"}, "invalid_value[sampling_parameters]: "),
        ({"text_input": "a", "sampling_parameters": '{"top_p": 7}'}, "invalid_value[top_p]: "),
        ({"text_input": "a", "top_p": 7}, "invalid_value[top_p]: "),
        ({"text_input": "a", "max_tokens": "many"}, "invalid_value[max_tokens]: max_tokens is 'many'"),
        ({"stream": False}, "invalid_value[text_input]: "),
        ({"messages": "hi"}, "invalid_value[messages]: "),
        ({"input_ids": [999_999_999]}, "invalid_value[input_ids]: "),
        ({"input_ids": [5] * (LONG_CONTEXT + 1000)}, "context_length_exceeded"),
    ],
)
def test_bad_requests(server: TritonServer, body: dict[str, Any], error: str) -> None:
    answer = server.generate(body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(error)


def test_an_entry_without_weights_says_what_it_lacks(server: TritonServer) -> None:
    answer = server.generate({"text_input": PROMPT}, "ernie-bare")
    assert answer.json()["error"].startswith("model_unavailable: ernie-bare")
    assert server.control("describe", "ernie-bare")["state"] == "unconfigured"
