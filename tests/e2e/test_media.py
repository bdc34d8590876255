"""Images and videos through the real servers: the official client over HTTP, and plain clients of Triton.

The weights are random, so no answer means anything: tokens are compared, and other media give others.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import openai
import pytest

from support.frontend_process import frontend_process
from support.paths import ROOT
from support.triton_server import TritonServer, add_entry
from support.vision_model import picture, vision_model

RED, BLUE = picture(112, 84, (200, 30, 30)), picture(112, 84, (30, 30, 200))
GREEDY: dict[str, Any] = {"max_tokens": 6, "temperature": 0, "extra_body": {"ignore_eos": True}}
TRITON_GREEDY = json.dumps({"max_tokens": 6, "temperature": 0, "ignore_eos": True})
LIMITS = {"limit_mm_per_prompt": '{"image": 3, "video": 1}', "dtype": "float32", "max_model_len": "2048"}
SMALL_VIDEOS = (
    '{"video_min_pixels": 784, "video_max_pixels": 6272, "video_min_frames": 2, "video_max_frames": 4}'
)


def moving_square() -> bytes:
    """Return an MP4 of two seconds."""
    out = BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(16):
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[8:24, 2 * index : 2 * index + 16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url(data)}}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


@pytest.fixture(scope="module")
def server(
    start_tritonserver: Callable[[Path], TritonServer], tmp_path_factory: pytest.TempPathFactory
) -> TritonServer:
    repository, models = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("models")
    seeing = str(vision_model(models / "vl", "ernie-4.5-vl"))
    reading = str(vision_model(models / "ocr", "paddleocr-vl"))
    add_entry(repository, "vl", model=seeing, mm_processor_kwargs=SMALL_VIDEOS, **LIMITS)
    add_entry(repository, "ocr", model=reading, **LIMITS)
    return start_tritonserver(repository)


@pytest.fixture(scope="module")
def client(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    command = [sys.executable, "-m", "ernie_frontend"]
    log = tmp_path_factory.mktemp("logs") / "frontend.log"
    with frontend_process(command, server.grpc_port, log) as frontend:
        base = f"{str(frontend.base_url).rstrip('/')}/v1"
        with openai.OpenAI(base_url=base, api_key="null", max_retries=0, timeout=100) as opened:
            yield opened


def answer(client: openai.OpenAI, *messages: Any, model: str = "vl", **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=list(messages), **{**GREEDY, **more})


def content(found: Any) -> str:
    """Return the text of an answer, its thinking included."""
    message = found.choices[0].message
    return f"{message.reasoning_content or ''}{message.content or ''}"


@pytest.mark.parametrize("model", ["vl", "ocr"])
def test_an_answer_follows_its_picture(client: openai.OpenAI, model: str) -> None:
    red, blue, again = (
        answer(client, user(image(each), text("What colour?")), model=model) for each in (RED, BLUE, RED)
    )
    assert content(red) == content(again) != content(blue)
    details = [found.usage.prompt_tokens_details for found in (red, blue, again)]
    assert [each.image_tokens for each in details] == [12] * 3
    assert details[2].cached_tokens >= details[1].cached_tokens


def test_pictures_in_several_turns_and_a_stream(client: openai.OpenAI) -> None:
    turns = (
        user(image(RED), text("a"), image(BLUE)),
        {"role": "assistant", "content": "b"},
        user(text("c"), image(RED)),
    )
    whole = answer(client, *turns)
    assert whole.usage.prompt_tokens_details.image_tokens == 36
    stream = answer(client, *turns, stream=True)
    deltas = [chunk.choices[0].delta for chunk in stream]
    assert "".join(f"{each.reasoning_content or ''}{each.content or ''}" for each in deltas) == content(whole)
    swapped = answer(client, user(image(BLUE), text("a"), image(RED)), *turns[1:])
    assert content(swapped) != content(whole)


def test_a_video_and_its_frames(client: openai.OpenAI) -> None:
    part: dict[str, Any] = {"type": "video_url", "video_url": {"url": url(moving_square(), "video/mp4")}}
    found = answer(client, user(part, text("What moves?")))
    short = answer(
        client, user({**part, "video_url": {**part["video_url"], "max_frames": 2}}, text("What moves?"))
    )
    tokens = [each.usage.prompt_tokens_details.video_tokens for each in (found, short)]
    assert tokens[0] == 2 * tokens[1] > 0
    with pytest.raises(openai.BadRequestError, match="video"):
        answer(client, user(part), model="ocr")


def test_what_is_wrong_with_media_is_a_400_and_the_server_lives_on(client: openai.OpenAI) -> None:
    for parts, complaint in (
        ([image(b"no picture")], "image"),
        ([image(RED[: len(RED) // 2])], "image"),
        ([image(RED)] * 4, "3"),
    ):
        with pytest.raises(openai.BadRequestError, match=complaint):
            answer(client, user(*parts))
    written = answer(client, user(text("What is <|IMAGE_PLACEHOLDER|>?"), image(RED)))
    assert written.usage.prompt_tokens_details.image_tokens == 12


def test_the_list_of_models_says_what_they_read(client: openai.OpenAI, server: TritonServer) -> None:
    for model, modalities in (("vl", ["text", "image", "video"]), ("ocr", ["text", "image"])):
        engine = server.control("describe", model)["engine"]
        assert engine["modalities"] == modalities
        assert engine["limit_mm_per_prompt"] == {
            name: {"image": 3, "video": 1}[name] for name in modalities[1:]
        }
        assert client.models.retrieve(model).model_extra["modalities"] == modalities  # type: ignore[index]


def test_plain_clients_of_triton_send_pictures(server: TritonServer) -> None:
    picture_part = {"type": "image_url", "image_url": {"media": 0}}
    conversation = {"messages": [user(picture_part, text("What colour?"))]}
    body = {
        "messages": json.dumps(conversation),
        "sampling_parameters": TRITON_GREEDY,
        "return_token_ids": True,
        "return_num_input_tokens": True,
        "return_finish_reason": True,
    }
    stream = server.stream({**body, "media": [RED], "stream": True}, "vl")
    responses = list(stream.rest())
    stream.close()
    assert [piece["num_image_tokens"] for piece in responses] == [[12]] + [[0]] * (len(responses) - 1)
    ids = [token for piece in responses for token in piece["output_ids"]]
    events = server.generate_stream({**body, "media": [url(RED)]}, "vl")
    assert "".join(event["text_output"] for event in events) == "".join(
        each["text_output"] for each in responses
    )
    whole = server.generate({**body, "media": [url(RED)], "exclude_input_in_output": True}, "vl").json()
    assert whole["output_ids"] == ids
    refused = server.generate({**body, "media": ["data:;base64,???"]}, "vl")
    assert refused.json()["error"].startswith("invalid_value[media]: media[0]: a data: URL is not base64")


def documented(language: str) -> str:
    """Return the example of wire.md's section about pictures that is written in a language."""
    section = (ROOT / "docs" / "wire.md").read_text().partition("### Pictures from clients of Triton")[2]
    return section.partition(f"```{language}\n")[2].partition("```")[0]


@pytest.mark.parametrize(("language", "program"), [("python", [sys.executable, "-"]), ("bash", ["bash", "-"])])
def test_the_examples_of_the_document(
    server: TritonServer, tmp_path: Path, language: str, program: list[str]
) -> None:
    (tmp_path / "picture.png").write_bytes(RED)
    text = documented(language).replace("ernie-4.5-vl-28b-a3b", "vl")
    text = text.replace("127.0.0.1:8001", f"127.0.0.1:{server.grpc_port}")
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{server.http_port}")
    done = subprocess.run(
        program, input=text, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    answered = json.loads(done.stdout.split("\n\n")[0].removeprefix("data: ")) if language == "bash" else {}
    assert "error" not in answered
    assert done.stdout.strip()


def test_the_python_example_raises_what_the_server_refuses(server: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"no picture")
    text = documented("python").replace("ernie-4.5-vl-28b-a3b", "vl")
    text = text.replace("127.0.0.1:8001", f"127.0.0.1:{server.grpc_port}")
    program = [sys.executable, "-"]
    done = subprocess.run(
        program, input=text, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    complaint = "invalid_value[media]: messages[0].content[0]: the file is of an unknown format, not an image"
    assert complaint in done.stderr.splitlines()[-1]


def test_the_commands_of_the_document_of_media(
    server: TritonServer, client: openai.OpenAI, tmp_path: Path
) -> None:
    """The server's only as far as its flags go: this module's runs already."""
    (tmp_path / "picture.png").write_bytes(RED)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    model = vision_model(tmp_path / "vl", "ernie-4.5-vl")
    document = (ROOT / "docs" / "media.md").read_text(encoding="utf-8")
    commands = re.findall(r"^```(bash|python)\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    programs = {"bash": ["bash", "-euo", "pipefail", "-s"], "python": [sys.executable, "-"]}
    printed = []
    for language, command in commands:
        text = command.replace("http://localhost:8188/v1", str(client.base_url).rstrip("/"))
        text = text.replace('model="default"', 'model="vl"').replace('"model": "default"', '"model": "vl"')
        text = text.replace("PaddlePaddle/ERNIE-4.5-VL-28B-A3B-Paddle", str(model))
        if " serve " in text:
            text = f"{text.rstrip()} --print-config\n"
        done = subprocess.run(
            programs[language],
            input=text,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
    flags, answered, said = printed
    assert "32768" in flags
    message = json.loads(answered)["choices"][0]["message"]
    assert message["content"] is not None
    assert said.strip()


def test_perf_analyzer_sends_pictures(server: TritonServer) -> None:
    command = (
        f"{Path(sys.prefix) / 'bin' / 'perf_analyzer'} -m vl -i grpc -u 127.0.0.1:{server.grpc_port} --async "
        "--streaming --input-data benchmarks/perf_analyzer_media_input.json --concurrency-range 2 "
        "--request-count 6"
    )
    result = subprocess.run(
        shlex.split(command), cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Request count: 6" in result.stdout
