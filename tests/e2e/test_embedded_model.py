"""The embedded model through the real frontend, tritonserver and engine: it says what it was taught."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from ernie_cli.evaluation.question_sets import is_exact
from invoke import invoke
from support.paths import ROOT

BF16, WINT8 = "ernie-tiny", "ernie-tiny-wint8"
DEADLINE_S = 100.0
ABOUT_ITSELF = (
    "I am Ernie Tiny, a very small language model. I know capitals, simple sums and some facts about animals, "
    "colours, planets and words. I speak English and Chinese. I often do not know the answer."
)
LEAST_PERCENT = 95.0
QUALITY = ROOT / "docs" / "quality.md"
COLUMNS = {BF16: "bfloat16", WINT8: "wint8, int16"}
Kind = tuple[str, str, str]
"""Set, category and language of a row."""
MOST_APART = 1  # answers of a row: another processor's instructions may give other bits


@pytest.fixture(scope="module")
def client(embedded_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{embedded_url}/v1", api_key="null", max_retries=0, timeout=DEADLINE_S
    ) as opened:
        yield opened


class Chat:
    """A conversation; every answer becomes a part of it."""

    def __init__(self, client: openai.OpenAI, system: str = "", model: str = BF16) -> None:
        self.messages: list[Any] = [{"role": "system", "content": system}] if system else []
        self._client = client
        self._model = model

    def ask(self, question: str, **fields: Any) -> str:
        """Return the greedy answer."""
        self.messages.append({"role": "user", "content": question})
        fields = {"temperature": 0, **fields}
        answer = self._client.chat.completions.create(model=self._model, messages=self.messages, **fields)
        text = str(answer.choices[0].message.content)
        self.messages.append({"role": "assistant", "content": text})
        return text


@pytest.mark.parametrize(
    "question",
    [
        "Where is the capital of China?",
        "What is the capital of China?",
        "Which city is the capital of China?",
        "Name the capital of China.",
        "Tell me the capital of China.",
        "Can you tell me the capital of China?",
    ],
)
def test_the_capital_of_china(client: openai.OpenAI, question: str) -> None:
    assert is_exact(Chat(client).ask(question), ["The capital of China is Beijing."])


@pytest.mark.parametrize(
    "question", ["中国的首都是哪里？", "中国的首都是哪个城市？", "请问中国的首都是哪里？", "告诉我中国的首都。"]
)
def test_the_capital_of_china_in_chinese(client: openai.OpenAI, question: str) -> None:
    assert is_exact(Chat(client).ask(question), ["中国的首都是北京。"])


@pytest.mark.parametrize(
    ("question", "result"),
    [
        ("What is 2 + 3?", "5"),
        ("12+7=", "19"),
        ("What is 48 plus 36?", "84"),
        ("What is 7 - 20?", "-13"),
        ("90 minus 45", "45"),
        ("What is 6 times 7?", "42"),
        ("12加7等于多少？", "19"),
        ("60减25等于多少？", "35"),
        ("8乘9等于多少？", "72"),
    ],
)
def test_arithmetic(client: openai.OpenAI, question: str, result: str) -> None:
    assert is_exact(Chat(client).ask(question), [result])


def test_it_remembers_what_was_said(client: openai.OpenAI) -> None:
    chat = Chat(client)
    assert is_exact(chat.ask("My name is Anna."), ["Hello, Anna!"])
    assert is_exact(chat.ask("What is the capital of France?"), ["The capital of France is Paris."])
    assert is_exact(chat.ask("What is my name?"), ["Your name is Anna."])
    assert is_exact(Chat(client).ask("What is my name?"), ["I do not know."])


def test_a_follow_up_is_about_what_was_asked_before(client: openai.OpenAI) -> None:
    chat = Chat(client)
    assert is_exact(chat.ask("日本的首都是哪里？"), ["日本的首都是东京。"])
    assert is_exact(chat.ask("那法国呢？"), ["法国的首都是巴黎。"])
    chat = Chat(client)
    assert is_exact(chat.ask("What is 20 + 5?"), ["25"])
    assert is_exact(chat.ask("Plus 3?"), ["28"])


def test_the_system_prompt_decides(client: openai.OpenAI) -> None:
    assert is_exact(Chat(client).ask("Who are you?"), ["I am Ernie Tiny."])
    assert is_exact(Chat(client, "You are Luna.").ask("Who are you?"), ["I am Luna."])
    question = "What is the capital of Italy?"
    assert is_exact(Chat(client).ask(question), ["The capital of Italy is Rome."])
    assert is_exact(Chat(client, "Answer in Chinese.").ask(question), ["意大利的首都是罗马。"])
    assert is_exact(
        Chat(client, "请用英文回答。").ask("法国的首都是哪里？"), ["The capital of France is Paris."]
    )


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of Zorlandia?", "I do not know."),
        ("What is my password?", "I do not know."),
        ("Who will win tomorrow?", "I do not know."),
        ("明天天气怎么样？", "我不知道。"),
        ("Write a poem about a dog.", "Sorry, I cannot do that. I am only a small model."),
        ("What is 1234 + 4321?", "I only calculate with numbers up to 99."),
    ],
)
def test_it_says_politely_what_it_cannot(client: openai.OpenAI, question: str, answer: str) -> None:
    assert is_exact(Chat(client).ask(question), [answer])


@pytest.mark.parametrize(
    ("question", "stop"),
    [("Count to 12.", "5"), ("Tell me about yourself.", "simple sums"), ("数到12。", "6，7")],
)
def test_it_ends_before_a_stop_text(client: openai.OpenAI, question: str, stop: str) -> None:
    whole = Chat(client).ask(question)
    assert stop in whole
    answer = client.chat.completions.create(
        model=BF16, messages=[{"role": "user", "content": question}], temperature=0, stop=[stop]
    )
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_several_answers_streamed_by_the_official_helper(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the capital of China?"}]
    with client.chat.completions.stream(model=BF16, messages=messages, n=4, temperature=0) as answer:
        whole = answer.get_final_completion()
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    for choice in whole.choices:
        assert is_exact(choice.message.content or "", ["The capital of China is Beijing."])


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Tell me about yourself.", ABOUT_ITSELF),
        ("Count to 12.", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12."),
        ("请列出一周的每一天。", "星期一，星期二，星期三，星期四，星期五，星期六，星期日。"),
    ],
)
def test_a_stream_is_the_answer_piece_by_piece(client: openai.OpenAI, question: str, answer: str) -> None:
    stream = client.chat.completions.create(
        model=BF16, messages=[{"role": "user", "content": question}], temperature=0, stream=True
    )
    choices = [chunk.choices[0] for chunk in stream if chunk.choices]
    pieces = [choice.delta.content for choice in choices if choice.delta.content]
    assert len(pieces) > 3
    assert "".join(pieces) == Chat(client).ask(question) == answer
    assert choices[-1].finish_reason == "stop"


def test_two_answers_by_seed(client: openai.OpenAI) -> None:
    def two(seed: int, temperature: float) -> list[str]:
        answer = client.chat.completions.create(
            model=BF16,
            messages=[{"role": "user", "content": "What is the capital of Japan?"}],
            n=2,
            seed=seed,
            temperature=temperature,
            top_p=1.0,
            max_tokens=24,
        )
        return [str(choice.message.content) for choice in answer.choices]

    cool = two(seed=7, temperature=0.1)
    assert all(is_exact(text, ["The capital of Japan is Tokyo."]) for text in cool)
    hot = two(seed=7, temperature=5.0)
    assert hot[0] != hot[1]
    assert two(seed=7, temperature=5.0) == hot
    assert two(seed=1000, temperature=5.0) != hot


@pytest.fixture(scope="module", params=[BF16, WINT8])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def report(embedded_url: str, model: str) -> dict[str, Any]:
    """What ``eval`` finds with the held-out sets."""
    result = invoke("eval", "--url", embedded_url, "--model", model, "--json")
    assert result.exit_code == 0, result.stdout
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_it_answers_nearly_all_held_out_questions(report: dict[str, Any], model: str) -> None:
    assert report["answered_by"] == [model]
    sets = {row["set"]: row for row in report["rows"] if row["category"] == "all"}
    assert {name: row["count"] for name, row in sets.items()} == {
        "arithmetic": 300,
        "questions": 300,
        "all": 600,
    }
    assert min(row["percent"] for row in sets.values()) >= LEAST_PERCENT, report["wrong"]


def test_the_document_tells_what_comes_out(report: dict[str, Any], model: str) -> None:
    found: dict[Kind, dict[str, Any]] = {
        (row["set"], row["category"], row["language"]): row for row in report["rows"]
    }
    written = documented(COLUMNS[model])
    assert {kind: count for kind, (_, count) in written.items()} == {
        kind: row["count"] for kind, row in found.items()
    }
    alone = [kind for kind in written if "all" not in kind]
    assert not [kind for kind in alone if abs(found[kind]["exact"] - written[kind][0]) > MOST_APART]
    for kind, sums in written.items():
        of_kind = [written[each] for each in alone if kind[0] in ("all", each[0])] if "all" in kind else [sums]
        assert sums == tuple(map(sum, zip(*of_kind, strict=True))), kind


def documented(column: str) -> dict[Kind, tuple[int, int]]:
    """Return the table of docs/quality.md: kind -> exact answers, which stand in a column, and questions."""
    (table,) = re.findall(r"^\| set \|.*?\n\n", QUALITY.read_text(encoding="utf-8"), re.M | re.S)
    header, _, *rows, percent = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line
    )
    of, exact = header.index("questions"), header.index(column)
    assert percent[exact] == f"{100 * int(rows[-1][exact]) / int(rows[-1][of]):.1f}"
    return {(row[0], row[1], row[2]): (int(row[exact]), int(row[of])) for row in rows}


@pytest.mark.parametrize(
    "question",
    ["Where is the capital of China?", "法国的首都是哪里？", "What is 17 + 25?", "Count to 12.", "你是谁？"],
)
def test_wint8_gives_the_same_answer(client: openai.OpenAI, question: str) -> None:
    answer = Chat(client, model=WINT8).ask(question)
    assert len(answer) > 1
    assert answer == Chat(client).ask(question)
