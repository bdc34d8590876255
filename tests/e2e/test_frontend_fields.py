"""The fields of the OpenAI API through the real frontend, tritonserver and engine."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.frontend_process import frontend_process
from support.triton_server import TritonServer

PROMPT = "The capital of France is"
GREEDY: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def client(dense_server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    command, log = [sys.executable, "-m", "ernie_frontend"], tmp_path_factory.mktemp("frontend") / "log"
    with frontend_process(command, dense_server.grpc_port, log) as client:
        yield client


def complete(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={**GREEDY, **fields})
    assert answer.status_code == 200, answer.text
    decoded: dict[str, Any] = answer.json()
    return decoded


def chat(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hi"}]
    answer = client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 8, **fields})
    assert answer.status_code == 200, answer.text
    decoded: dict[str, Any] = answer.json()
    return decoded


def test_n_counts_the_seed_on(client: httpx.Client) -> None:
    fields: dict[str, Any] = {"temperature": 2.0, "top_p": 1.0, "ignore_eos": True}
    several = complete(client, **fields, n=3, seed=7)
    alone = [complete(client, **fields, seed=7 + index) for index in range(3)]
    texts = [choice["text"] for choice in several["choices"]]
    assert texts == [answer["choices"][0]["text"] for answer in alone]
    assert len(set(texts)) == 3
    assert several["usage"]["prompt_tokens"] == alone[0]["usage"]["prompt_tokens"]
    assert several["usage"]["completion_tokens"] == 24


def test_best_of_is_the_most_likely(client: httpx.Client) -> None:
    fields: dict[str, Any] = {"temperature": 2.0, "top_p": 1.0, "ignore_eos": True, "seed": 1, "logprobs": 0}
    candidates = complete(client, **fields, n=4)["choices"]
    ranked = sorted(candidates, key=lambda choice: -sum(choice["logprobs"]["token_logprobs"]))
    best = complete(client, **fields, best_of=4, n=2)["choices"]
    assert [choice["text"] for choice in best] == [choice["text"] for choice in ranked[:2]]


def test_logprobs_agree_whichever_way_they_are_asked_for(client: httpx.Client) -> None:
    """The answer's log probabilities are those of the same tokens as a prompt, up to float32."""
    answer = complete(client, logprobs=3, return_token_ids=True, ignore_eos=True)["choices"][0]
    ids = answer["prompt_token_ids"] + answer["completion_token_ids"]
    echo = complete(client, prompt=ids, echo=True, max_tokens=0, logprobs=3)
    assert echo["usage"]["completion_tokens"] == 0
    logprobs = echo["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"][0] is None
    assert len(logprobs["tokens"]) == len(ids)
    assert logprobs["token_logprobs"][-8:] == pytest.approx(answer["logprobs"]["token_logprobs"], abs=1e-4)
    for own, top in zip(logprobs["token_logprobs"][-8:], logprobs["top_logprobs"][-8:], strict=True):
        assert own == pytest.approx(max(top.values()))  # greedy
        assert sum(map(math.exp, top.values())) <= 1 + 1e-6


def test_spellings_that_other_servers_accept(client: httpx.Client) -> None:
    plain = complete(client, logprobs=1)["choices"]
    assert complete(client, logprobs=True, max_tokens=8.0, stop="", top_k=-1, seed=-1)["choices"] == plain
    fields: dict[str, Any] = {"temperature": 2.0, "top_p": 1.0, "ignore_eos": True}
    seeded, again, other = (complete(client, **fields, seed=seed)["choices"] for seed in (-7, -7.0, -8))
    assert seeded == again != other
    answer = client.post("/v1/completions", json={**GREEDY, "logprobs": -1})
    assert answer.status_code == 400
    assert "640 tokens" in answer.json()["error"]["message"]


def test_echo_repeats_the_prompt(client: httpx.Client) -> None:
    plain, echo = complete(client), complete(client, echo=True)
    assert echo["choices"][0]["text"] == PROMPT + plain["choices"][0]["text"]


def test_chat_logprobs_and_bytes(client: httpx.Client) -> None:
    choice = chat(client, temperature=0, logprobs=True, top_logprobs=2, ignore_eos=True)["choices"][0]
    entries = choice["logprobs"]["content"]
    assert len(entries) == 8
    for entry in entries:
        assert entry["logprob"] <= 0
        assert entry["top_logprobs"][0]["token"] == entry["token"]  # greedy
        assert len(entry["top_logprobs"]) == 2
    made = b"".join(bytes(entry["bytes"]) for entry in entries).decode(errors="replace")
    assert choice["message"]["content"].strip() in made


def test_an_answer_goes_on_from_its_token_ids(client: httpx.Client) -> None:
    whole = chat(client, temperature=0, return_token_ids=True, ignore_eos=True)["choices"][0]["message"]
    begun = {
        "prompt_token_ids": whole["prompt_token_ids"],
        "completion_token_ids": whole["completion_token_ids"][:3],
    }
    rest = chat(client, temperature=0, return_token_ids=True, ignore_eos=True, **begun | {"max_tokens": 5})[
        "choices"
    ][0]["message"]
    assert rest["completion_token_ids"] == whole["completion_token_ids"][3:]


def test_the_prefix_cache_is_in_the_usage(client: httpx.Client) -> None:
    long = "one two three four five six seven eight nine ten " * 20
    first, second = complete(client, prompt=long), complete(client, prompt=long)
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert 0 < second["usage"]["prompt_tokens_details"]["cached_tokens"] < second["usage"]["prompt_tokens"]
    assert first["choices"] == second["choices"]


def test_stops_biases_and_bans(client: httpx.Client) -> None:
    plain = complete(client, return_token_ids=True, ignore_eos=True)["choices"][0]
    first, second = plain["completion_token_ids"][:2]
    stopped = complete(client, stop_token_ids=[second], ignore_eos=True)["choices"][0]
    assert stopped["finish_reason"] == "stop"
    for ban in ({"logit_bias": {str(first): -100}}, {"bad_words_token_ids": [first]}):
        banned = complete(client, return_token_ids=True, ignore_eos=True, **ban)["choices"][0]
        assert first not in banned["completion_token_ids"]
    allowed = complete(client, return_token_ids=True, allowed_token_ids=[first, second], ignore_eos=True)
    assert set(allowed["choices"][0]["completion_token_ids"]) <= {first, second}


def test_the_final_message_is_continued(client: httpx.Client) -> None:
    begun = {"role": "assistant", "content": "The answer"}
    body = {"messages": [{"role": "user", "content": "Hi"}, begun], "continue_final_message": True}
    whole = chat(client, **body, temperature=0, return_token_ids=True)["choices"][0]["message"]
    assert whole["prompt_tokens"].endswith("User: Hi\nAssistant: The answer")
    assert whole["content"] == complete(client, prompt=whole["prompt_tokens"])["choices"][0]["text"]
    ended = chat(
        client, **{**body, "continue_final_message": False}, add_generation_prompt=False, return_token_ids=True
    )
    assert ended["choices"][0]["message"]["prompt_tokens"].endswith("The answer<|end_of_sentence|>")
    answer = client.post("/v1/chat/completions", json={**body, "add_generation_prompt": True})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (
        400,
        "invalid_value",
        "continue_final_message",
    )


def test_a_truncated_prompt_is_its_last_tokens(client: httpx.Client) -> None:
    fields: dict[str, Any] = {"prompt": "one two three " * 5000, "return_token_ids": True}
    truncated = complete(client, **fields, truncate_prompt_tokens=9, echo=True)
    choice = truncated["choices"][0]
    assert truncated["usage"]["prompt_tokens"] == len(choice["prompt_token_ids"]) == 9
    alone = complete(client, prompt=choice["prompt_token_ids"], echo=True)
    assert alone["choices"][0]["text"] == choice["text"]
    assert chat(client, truncate_prompt_tokens=3)["usage"]["prompt_tokens"] == 3
    answer = client.post("/v1/completions", json={**GREEDY, **fields})
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("token_id", "asked", "text"),
    [
        (2, {}, ""),
        (1, {"skip_special_tokens": True}, ""),
        (1, {"skip_special_tokens": False}, "<s>"),
        (38, {}, "<think>"),
    ],
)
def test_special_tokens_are_tokens_but_no_text(
    client: httpx.Client, path: str, token_id: int, asked: dict[str, Any], text: str
) -> None:
    """Whole and streamed: the end-of-sequence token (2), another special one (1), and a structural one (38)."""
    forced = {"logit_bias": {str(token_id): 100}, "ignore_eos": True, "max_tokens": 2, **asked}
    body = {"prompt": PROMPT, "messages": [{"role": "user", "content": "Hi"}], "logprobs": True, **forced}
    if path == "/v1/completions":
        body["logprobs"] = 0
    whole = client.post(path, json=body).json()
    lines = client.post(path, json={**body, "stream": True}).text.split("\n\n")[:-2]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    for answer in ([whole], events):
        choices = [each["choices"][0] for each in answer]
        parts = [each.get("message") or each.get("delta") or {"content": each["text"]} for each in choices]
        assert "".join(part["content"] for part in parts) == 2 * text
        logprobs = [each["logprobs"] for each in choices if each["logprobs"]]
        tokens = [each["token"] for part in logprobs for each in part.get("content", [])]
        tokens += [each for part in logprobs for each in part.get("tokens", [])]
        assert tokens == 2 * [{1: "<s>", 2: "</s>", 38: "<think>"}[token_id]]
        offsets = [each for part in logprobs for each in part.get("text_offset", [0, len(text)])]
        assert offsets[-1] == len(text)
    assert whole["usage"]["completion_tokens"] == 2


def test_several_streams_in_one(client: httpx.Client) -> None:
    fields = {**GREEDY, "prompt": ["a", "b"], "n": 2, "stream": True, "max_streaming_response_tokens": 3}
    answer = client.post("/v1/completions", json=fields)
    events = [json.loads(event.removeprefix("data: ")) for event in answer.text.split("\n\n")[:-2]]
    texts = dict.fromkeys(range(4), "")
    for event in events:
        [choice] = event["choices"]
        texts[choice["index"]] += choice["text"]
    assert (texts[0], texts[2]) == (texts[1], texts[3])  # greedy
    assert texts[0] == complete(client, prompt="a")["choices"][0]["text"]


def process(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    decoded: dict[str, Any] = answer.json()
    return decoded


def test_tokens_of_texts_and_back(client: httpx.Client) -> None:
    for text in ("", PROMPT, "</s>", "中文 and a <|begin_of_sentence|> 🙂\n\n", "a" * 9000):
        answer = process(client, "/tokenize", prompt=text, return_token_strs=True)
        assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
        assert answer["max_model_len"] == client.get("/v1/models").json()["data"][0]["max_model_len"]
        assert process(client, "/detokenize", tokens=answer["tokens"]) == {"prompt": text}
    assert answer["count"] > answer["max_model_len"], "a prompt may be longer than the context"


def test_tokens_of_a_chat_are_those_of_its_prompt(client: httpx.Client) -> None:
    messages = [{"role": "system", "content": "中文</s>"}, {"role": "user", "content": "Hi"}]
    for options in ({}, {"add_generation_prompt": False}, {"continue_final_message": True}):
        tokenized = process(client, "/tokenize", messages=messages, **options)
        generated = chat(client, messages=messages, return_token_ids=True, max_tokens=1, **options)
        assert tokenized["tokens"] == generated["choices"][0]["message"]["prompt_token_ids"]
        assert tokenized["count"] == generated["usage"]["prompt_tokens"]


def test_the_tokenizer_is_described(client: httpx.Client) -> None:
    info = client.get("/tokenizer_info").json()
    assert process(client, "/tokenize", prompt=info["eos_token"])["count"] == 1
    assert "messages" in info["chat_template"]


def test_a_structured_answer_has_its_form_and_a_hostile_form_is_refused_alone(client: httpx.Client) -> None:
    schema = {"type": "array", "items": {"enum": ["a", 1]}, "minItems": 2, "maxItems": 2}
    form = {"type": "json_schema", "json_schema": {"name": "pair", "schema": schema}}
    for choice in chat(client, response_format=form, max_tokens=32, n=2, temperature=1.5)["choices"]:
        assert choice["finish_reason"] == "stop"
        assert len([each for each in json.loads(choice["message"]["content"]) if each in ("a", 1)]) == 2
    rules = "".join(f'r{number}: "a" r{number + 1}\n' for number in range(9_000))
    hostile = {**GREEDY, "guided_grammar": f'start: r0\n{rules}r9000: "b"'}
    answer = client.post("/v1/completions", json=hostile, timeout=60)
    assert (answer.status_code, "too large" in answer.text) == (400, True)
    assert complete(client, guided_choice=["yes"])["choices"][0]["text"] == "yes"
