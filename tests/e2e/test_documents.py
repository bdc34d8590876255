"""PaddleOCR-VL through the whole stack, as its users ask: FastDeploy's requests, PaddleX's fields, ``ocr``."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from ernie_backend.chat.tokenizer import Tokenizer
from invoke import invoke
from support import http
from support.paths import DATA, ROOT
from support.pictures import Served, data_url, file_server, image, page
from support.serving import FLAGS, Serving
from support.vision_model import vision_model

REQUESTS = DATA / "fastdeploy_requests"
PICTURE_URL = "https://paddle-model-ecology.bj.bcebos.com/paddlex/imgs/demo_image/ocr_demo.jpg"
CONTEXT = 1024


@pytest.fixture(scope="module")
def pictures() -> Iterator[str]:
    with file_server({"/ocr_demo.jpg": Served(page(1), "image/jpeg")}) as url:
        yield url


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = vision_model(tmp_path_factory.mktemp("models") / "PaddleOCR-VL", "paddleocr-vl")
    (directory / "added_tokens.json").write_text(json.dumps({"<fcel>": 562, "<nl>": 563}))
    return directory


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    flags = ("--model", str(model), "--max-model-len", str(CONTEXT), "--allow-private-media")
    serving = Serving("serve", *FLAGS[2:], *flags)
    try:
        yield serving.wait_until_ready()
    finally:
        serving.close()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="EMPTY_API_KEY", max_retries=0) as opened:
        yield opened


def read(client: openai.OpenAI, picture: bytes, task: str = "OCR:", **fields: Any) -> Any:
    """Return the answer about a picture, greedy and short unless fields say otherwise."""
    content: Any = [
        {"type": "image_url", "image_url": {"url": data_url(picture)}},
        {"type": "text", "text": task},
    ]
    asked: dict[str, Any] = {"temperature": 0, "max_completion_tokens": 8, **fields}
    return client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": content}], **asked
    )


def only(model: Path, text: str) -> dict[str, int]:
    """Return a bias with which an answer is only this token."""
    (token,) = Tokenizer.from_directory(model).encode(text)
    return {str(token): 100}


def test_fastdeploy_s_curl(url: str, pictures: str) -> None:
    body = (REQUESTS / "ocr_image.json").read_text().replace(PICTURE_URL, f"{pictures}/ocr_demo.jpg")
    answer = http.post(
        f"{url}/v1/chat/completions", headers={"Content-Type": "application/json"}, content=body.encode()
    )
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    assert usage["prompt_tokens_details"]["image_tokens"] > 0
    assert usage["prompt_tokens"] + usage["completion_tokens"] <= CONTEXT


def test_fastdeploy_s_python_client(client: openai.OpenAI, pictures: str) -> None:
    response: Any = client.chat.completions.create(
        model="default",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": f"{pictures}/ocr_demo.jpg"}},
                    {"type": "text", "text": "OCR:"},
                ],
            },
        ],
        temperature=0.0001,
        max_tokens=4096,
        stream=True,
        top_p=0,
        metadata={"enable_thinking": False},  # type: ignore[dict-item]
    )

    def get_str(content_raw: object) -> str:
        return str(content_raw) if content_raw is not None else ""

    printed = ""
    for chunk in response:
        if chunk.choices[0].delta is not None and chunk.choices[0].delta.role != "assistant":
            reasoning_content = get_str(chunk.choices[0].delta.reasoning_content)
            content = get_str(chunk.choices[0].delta.content)
            printed += reasoning_content + content
    assert printed


def test_top_p_0_is_greedy(client: openai.OpenAI) -> None:
    texts = {
        read(client, page(2), temperature=temperature, top_p=0, seed=seed).choices[0].message.content
        for temperature, seed in ((0, 1), (1, 2), (1, 3))
    }
    assert len(texts) == 1


def test_an_answer_longer_than_the_context_is_cut(client: openai.OpenAI) -> None:
    extra = {"ignore_eos": True, "repetition_detection": {"max_pattern_size": 0}}
    answer = read(client, page(3), max_completion_tokens=8192, extra_body=extra)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == CONTEXT


def test_a_loop_ends_and_says_so(client: openai.OpenAI, model: Path) -> None:
    loop = {"max_pattern_size": 4, "min_count": 5, "min_repeated_tokens": 30}
    extra = {"repetition_detection": loop, "ignore_eos": True}
    answer = read(client, page(3), max_completion_tokens=200, logit_bias=only(model, "a"), extra_body=extra)
    [choice] = answer.choices
    assert (choice.finish_reason, choice.stop_reason) == ("length", "repetition_detected")
    assert answer.usage.completion_tokens == 30
    assert choice.message.content == "a" * 30


@pytest.mark.parametrize("tag", ["<|LOC_3|>", "<fcel>"])
@pytest.mark.parametrize("skip_special_tokens", [True, False])
def test_places_and_table_tags_are_text(
    client: openai.OpenAI, model: Path, tag: str, skip_special_tokens: bool
) -> None:
    extra = {"skip_special_tokens": skip_special_tokens, "repetition_penalty": 1.0}
    answer = read(client, page(4), "Spotting:", logit_bias=only(model, tag), extra_body=extra)
    assert answer.choices[0].message.content == tag * 8


def test_other_special_tokens_are_text_only_if_asked(client: openai.OpenAI, model: Path) -> None:
    tag = "<|CROP_COL_SEP|>"
    for skip, text in ((True, ""), (False, tag * 8)):
        extra = {"skip_special_tokens": skip}
        answer = read(client, page(4), logit_bias=only(model, tag), extra_body=extra)
        assert answer.choices[0].message.content == text


def test_a_repetition_penalty_has_its_effect(client: openai.OpenAI, model: Path) -> None:
    bias = only(model, "a") | dict.fromkeys(only(model, "b"), 90)
    free, penalized = (
        read(client, page(4), logit_bias=bias, extra_body={"repetition_penalty": penalty})
        for penalty in (1.0, 5.0)
    )
    assert free.choices[0].message.content == "a" * 8
    assert set(penalized.choices[0].message.content) > {"a"}


def test_pixels_of_one_request(client: openai.OpenAI) -> None:
    def num_tokens(**pixels: int) -> int:
        answer = read(client, page(5), extra_body={"mm_processor_kwargs": pixels})
        return int(answer.usage.prompt_tokens_details.image_tokens)

    assert num_tokens(min_pixels=784, max_pixels=28 * 28 * 20) <= 20
    assert num_tokens(min_pixels=28 * 28 * 200, max_pixels=28 * 28 * 300) >= 200


def test_what_a_formula_s_crop_may_be_and_then_the_next(client: openai.OpenAI) -> None:
    for width, height in ((3, 32), (32, 3), (1, 1), (2000, 3)):
        with contextlib.suppress(openai.BadRequestError):
            read(client, image(width, height), "Formula Recognition:")
    for wrong in (b"GIF89a", page(1)[:200], b"%PDF-1.7"):
        with pytest.raises(openai.BadRequestError):
            read(client, wrong)
    assert read(client, page(6)).choices[0].message.content is not None


def test_a_video_is_refused(client: openai.OpenAI) -> None:
    content: Any = [{"type": "video_url", "video_url": {"url": data_url(b"x", "video/mp4")}}]
    with pytest.raises(openai.BadRequestError, match="video"):
        client.chat.completions.create(model="default", messages=[{"role": "user", "content": content}])


def test_a_folder_of_pages(url: str, tmp_path: Path) -> None:
    folder, output = tmp_path / "pages", tmp_path / "read"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(page(number))
    (folder / "6.png").write_bytes(b"no picture")
    options = ("--url", url, "--output", str(output), "--max-tokens", "8", "--concurrency", "4")
    result = invoke("ocr", str(folder), *options)
    assert result.exit_code == 1
    assert result.stdout.startswith("6.png: status 400: ")
    records = json.loads((output / "document.json").read_text())
    assert [record["page"] for record in records] == [f"{number}.jpg" for number in range(6)]
    assert all(record["usage"]["completion_tokens"] for record in records)
    assert "6 read before" in invoke("ocr", str(folder), *options).stdout


def test_the_document_s_commands(url: str, model: Path, tmp_path: Path) -> None:
    """The server's only as far as its flags go: this module's runs already."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "1.jpg").write_bytes(page(1))
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    document = (ROOT / "docs" / "ocr.md").read_text(encoding="utf-8")
    commands = re.findall(r"^```bash\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    assert len(commands) == 3
    for command in commands:
        text = command.replace("http://127.0.0.1:8188", url).replace("PaddlePaddle/PaddleOCR-VL", str(model))
        if " serve " in text:
            text = f"{text.rstrip()} --print-config"
        shell = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "read" / "document.md").exists()
    assert (tmp_path / "tables" / "document.md").exists()
