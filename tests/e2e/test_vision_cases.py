"""Images and videos through the whole stack: FastDeploy's requests, reported cases, many and large ones."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from PIL import Image

from ernie_backend.chat.tokenizer import Tokenizer
from support.media import image_file
from support.paths import DATA
from support.pictures import Served, data_url, file_server, image, page, video
from support.serving import FLAGS, Serving
from support.vision_model import vision_model

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
REQUESTS = DATA / "fastdeploy_requests"
IMAGE_URL = "https://paddlenlp.bj.bcebos.com/datasets/paddlemix/demo_images/example2.jpg"
VIDEO_URL = "https://bj.bcebos.com/v1/paddlenlp/datasets/paddlemix/demo_video/example_video.mp4"
FLAGS_OF = {
    "ernie-4.5-vl": (
        *(
            "--enable-mm",
            "--mm-processor-kwargs",
            '{"video_max_frames": 30}',
            "--reasoning-parser",
            "ernie-45-vl",
        ),
        *("--limit-mm-per-prompt", '{"image": 128, "video": 3}', "--max-num-seqs", "40"),
    ),
    "ernie-4.5-vl-thinking": (
        *("--reasoning-parser", "ernie-45-vl-thinking", "--tool-call-parser", "ernie-45-vl-thinking"),
        *("--mm-processor-kwargs", '{"image_max_pixels": 12845056 }'),
    ),
    "paddleocr-vl": (
        *("--max-num-seqs", "256", "--no-enable-prefix-caching", "--max-processor-cache", "0.02"),
    ),
}
"""Those of FastDeploy's table that are about media, and limits of images and caches."""


CONTEXT = 4096
"""A video takes 2592 tokens at least, by the default of its pixels."""


def _lengthen(path: Path) -> None:
    """Give a model room for ``CONTEXT`` tokens."""
    config = json.loads(path.read_text())
    config.get("text_config", config)["max_position_embeddings"] = CONTEXT
    path.write_text(json.dumps(config))


class Vision:
    """A server with one of the models, and its clients."""

    def __init__(self, form: str, directory: Path) -> None:
        self.model = vision_model(directory / form, form)
        _lengthen(self.model / "config.json")
        context = ("--max-model-len", str(CONTEXT))
        flags = ("--model", str(self.model), *context, "--allow-private-media", *FLAGS_OF[form])
        self.serving = Serving("serve", *FLAGS[2:], *flags)
        self.url = self.serving.wait_until_ready()
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="null", max_retries=0, timeout=600)

    def ask(self, *content: Any, messages: Any = None, **fields: Any) -> Any:
        """Return the answer to a user's parts, greedy and short."""
        said = messages or [{"role": "user", "content": list(content)}]
        asked: dict[str, Any] = {"temperature": 0, "max_tokens": 4, **fields}
        return self.client.chat.completions.create(model="default", messages=said, **asked)

    def body(self, name: str, **addresses: str) -> bytes:
        """Return one of FastDeploy's bodies, in which only the address is another."""
        text = (REQUESTS / f"{name}.json").read_text()
        return text.replace(IMAGE_URL, addresses["image"]).replace(VIDEO_URL, addresses["video"]).encode()

    def post(self, body: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        answer = httpx.post(f"{self.url}/v1/chat/completions", headers=headers, content=body, timeout=600)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def memory(self) -> dict[str, int]:
        """Return the resident bytes of each process, without what it shares."""
        processes = [self.serving.process, *self.serving.process.children(recursive=True)]
        return {f"{each.pid} {each.name()}": each.memory_full_info().uss for each in processes}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Vision]]:
    started: dict[str, Vision] = {}

    def get(form: str) -> Vision:
        if form not in started:
            started[form] = Vision(form, tmp_path_factory.mktemp("models"))
        return started[form]

    yield get
    for each in started.values():
        each.client.close()
        each.serving.close()


@pytest.fixture(scope="module")
def vl(start: Callable[[str], Vision]) -> Vision:
    return start("ernie-4.5-vl")


@pytest.fixture(scope="module")
def ocr(start: Callable[[str], Vision]) -> Vision:
    return start("paddleocr-vl")


@pytest.fixture(scope="module")
def media() -> Iterator[dict[str, str]]:
    files = {"/example2.jpg": Served(page(1), "image/jpeg"), "/example_video.mp4": Served(video(), "video/mp4")}
    with file_server(files) as url:
        yield {"image": f"{url}/example2.jpg", "video": f"{url}/example_video.mp4"}


def shown(content: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(content)}}


def said(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


RED, BLUE = (image(448, 448, color=color) for color in ((200, 30, 30), (30, 30, 200)))


def num_image_tokens(answer: Any) -> int:
    return int(answer.usage.prompt_tokens_details.image_tokens)


def test_fastdeploy_s_requests_to_vl(vl: Vision, media: dict[str, str]) -> None:
    answer = vl.post(vl.body("vl_image", **media))
    assert answer["usage"]["prompt_tokens_details"]["image_tokens"] > 0
    assert answer["choices"][0]["message"]["reasoning_content"] is None
    response: Any = vl.client.chat.completions.create(
        model="default",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": media["image"], "detail": "high"}},
                    {"type": "text", "text": "请描述图片内容"},
                ],
            },
        ],
        temperature=0.0001,
        max_tokens=10000,
        stream=True,
        top_p=0,
        metadata={"enable_thinking": False},  # type: ignore[dict-item]
    )
    printed = ""
    for chunk in response:
        if chunk.choices[0].delta is not None and chunk.choices[0].delta.role != "assistant":
            printed += (chunk.choices[0].delta.reasoning_content or "") + (chunk.choices[0].delta.content or "")
    assert printed


@pytest.mark.parametrize("name", ["thinking_text", "thinking_image", "thinking_video", "tools", "tool_result"])
def test_fastdeploy_s_requests_to_vl_thinking(
    start: Callable[[str], Vision], media: dict[str, str], name: str
) -> None:
    thinking = start("ernie-4.5-vl-thinking")
    answer = thinking.post(thinking.body(name, **media))
    details = answer["usage"]["prompt_tokens_details"]
    assert (details["image_tokens"] > 0, details["video_tokens"] > 0) == ("image" in name, "video" in name)
    assert answer["choices"][0]["message"]["reasoning_content"], "it thinks without any switch"


def test_v01_text_of_a_user_never_binds_a_picture(vl: Vision, ocr: Vision) -> None:
    for vision in (vl, ocr):
        text = said("What is <|IMAGE_PLACEHOLDER|> and <|IMAGE_START|> <|image@placeholder|>?")
        plain = vision.ask(said("What is it?"), shown(RED))
        assert num_image_tokens(vision.ask(text, shown(RED))) == num_image_tokens(plain)
        assert num_image_tokens(vision.ask(text)) == 0


def test_v02_the_answer_follows_the_picture(vl: Vision) -> None:
    red, blue, again = (
        vl.ask(said("x" * 200), shown(picture), said("color?"), max_tokens=8) for picture in (RED, BLUE, RED)
    )
    cached = [answer.usage.prompt_tokens_details.cached_tokens for answer in (red, blue, again)]
    assert cached[1] < red.usage.prompt_tokens - num_image_tokens(red)
    assert cached[2] > cached[1] + num_image_tokens(red) // 2
    assert again.choices[0].message == red.choices[0].message


def test_v06_the_content_decides_what_a_file_is(vl: Vision) -> None:
    picture = Image.open(io.BytesIO(RED))
    kinds = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
    files = {
        f"/{form}{suffix}": Served(image_file(picture, form), sent)
        for form in kinds
        for suffix, sent in (
            ("", None),
            (".bin", "application/octet-stream"),
            (".png", kinds[form]),
            (".txt", "text/plain"),
        )
    }
    with file_server(files) as url:
        for path in files:
            part = {"type": "image_url", "image_url": {"url": f"{url}{path}"}}
            assert num_image_tokens(vl.ask(part, said("?"))) > 0, path


def test_v07_spellings_of_data_urls(vl: Vision) -> None:
    encoded_picture = data_url(RED).partition(",")[2]
    lines = "\n".join(encoded_picture[at : at + 76] for at in range(0, len(encoded_picture), 76))
    url_safe = encoded_picture.replace("+", "-").replace("/", "_")
    for url in (
        f"data:image/png;base64,{encoded_picture}",
        f"data:image/jpg;base64,{encoded_picture}",
        f"DATA:IMAGE/PNG;BASE64,{encoded_picture}",
        f"data:image/png;base64,{lines}",
        f"data:image/png;base64,{url_safe}",
        f"data:image/png;base64,{encoded_picture.rstrip('=')}",
    ):
        part = {"type": "image_url", "image_url": {"url": url}}
        assert num_image_tokens(vl.ask(part, said("?"))) == num_image_tokens(vl.ask(shown(RED), said("?")))
    with pytest.raises(openai.BadRequestError, match="data:"):
        vl.ask({"type": "image_url", "image_url": {"url": encoded_picture}}, said("?"))


def test_v09_wherever_the_picture_stands(vl: Vision, ocr: Vision) -> None:
    for vision in (vl, ocr):
        expected = num_image_tokens(vision.ask(shown(RED), said("?")))
        assert expected > 0
        assert num_image_tokens(vision.ask(said("?"), shown(RED))) == expected
        assert num_image_tokens(vision.ask(shown(RED))) == expected
        turns: list[Any] = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": [said("?"), shown(RED)]},
        ]
        assert num_image_tokens(vision.ask(messages=turns)) == expected
        system: list[Any] = [{"role": "system", "content": [shown(RED)]}, {"role": "user", "content": "?"}]
        try:
            assert num_image_tokens(vision.ask(messages=system)) == expected
        except openai.BadRequestError as error:
            assert error.code == "invalid_value"  # noqa: PT017


def test_v10_half_a_character_is_text_too(ocr: Vision) -> None:
    tokenizer = Tokenizer.from_directory(ocr.model)
    half = next(each for each in range(tokenizer.vocab_size) if tokenizer.token_bytes(each) == b"\xe4")
    answer = ocr.ask(shown(RED), said("OCR:"), logit_bias={str(half): 100})
    assert answer.choices[0].message.content == "\ufffd" * 4


def test_a_loop_of_paddleocr_vl_ends_unless_the_request_says_otherwise(ocr: Vision) -> None:
    (token,) = Tokenizer.from_directory(ocr.model).encode("a")
    loop = {"logit_bias": {str(token): 100}, "max_tokens": 3000}
    for off, number, reason in ((False, 2048, "repetition_detected"), (True, 3000, None)):
        extra = {"repetition_detection": {"max_pattern_size": 0}} if off else {}
        answer = ocr.ask(shown(RED), said("OCR:"), extra_body=extra, **loop)
        assert answer.usage.completion_tokens == number
        assert answer.choices[0].finish_reason == "length"
        assert getattr(answer.choices[0], "stop_reason", None) == reason


HOSTILE = {
    "a bomb": lambda: image(20000, 20000, mode="1", color=1),
    "a gif with a huge canvas": lambda: b"GIF89a" + b"\xff\xff\xff\xff" + bytes(7) + b";",
    "a truncated JPEG": lambda: page(1)[:2000],
    "no picture": lambda: b"\x00" * 100,
    "a PNG that ends": lambda: RED[:60],
}
UNUSUAL = {
    "CMYK": lambda: image_file(Image.new("CMYK", (60, 60), (0, 200, 200, 0)), "JPEG"),
    "16-bit grey": lambda: image_file(Image.new("I;16", (60, 60), 30000), "PNG"),
    "a palette with transparency": lambda: image_file(Image.new("P", (60, 60), 3), "PNG", transparency=3),
    "LA": lambda: image_file(Image.new("LA", (60, 60), (40, 90)), "PNG"),
    "an animated GIF": lambda: image_file(
        Image.new("L", (60, 60)), "GIF", save_all=True, append_images=[Image.new("L", (60, 60), 255)]
    ),
    "an animated WebP": lambda: image_file(
        Image.new("RGB", (60, 60)), "WEBP", save_all=True, append_images=[Image.new("RGB", (60, 60), "white")]
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_v13_a_hostile_picture_is_refused_and_the_next_is_read(vl: Vision, ocr: Vision, name: str) -> None:
    for vision in (vl, ocr):
        before = sum(vision.memory().values())
        with pytest.raises(openai.BadRequestError) as caught:
            vision.ask(shown(HOSTILE[name]()), said("?"))
        assert caught.value.code == "invalid_value"
        assert sum(vision.memory().values()) < before + (64 << 20)
        assert num_image_tokens(vision.ask(shown(RED), said("?"))) > 0


@pytest.mark.parametrize("name", UNUSUAL)
def test_v13_an_unusual_picture_is_read(vl: Vision, ocr: Vision, name: str) -> None:
    for vision in (vl, ocr):
        assert num_image_tokens(vision.ask(shown(UNUSUAL[name]()), said("?"))) > 0


def test_v16_options_of_each_part(vl: Vision) -> None:
    clip = data_url(video(frames=96), "video/mp4")

    def num_video_tokens(**options: Any) -> int:
        part = {"type": "video_url", "video_url": {"url": clip, "min_frames": 2, **options}}
        return int(vl.ask(part, said("?")).usage.prompt_tokens_details.video_tokens)

    assert num_video_tokens(fps=1) * 4 == num_video_tokens(fps=4)
    few, many = (
        num_image_tokens(
            vl.ask({"type": "image_url", "image_url": {"url": data_url(RED), "max_pixels": pixels}}, said("?"))
        )
        for pixels in (28 * 28 * 16, 28 * 28 * 100)
    )
    assert few <= 16 < many <= 100


def test_256_pages_in_flight(ocr: Vision) -> None:
    pages = [page(number, 28 * (2 + number % 5), 28 * (2 + number % 3)) for number in range(32)]
    alone = [ocr.ask(shown(each), said("OCR:"), max_tokens=16).choices[0].message.content for each in pages]
    with ThreadPoolExecutor(256) as threads:
        answers = threads.map(
            lambda number: ocr.ask(shown(pages[number % 32]), said("OCR:"), max_tokens=16), range(256)
        )
        texts = [answer.choices[0].message.content for answer in answers]
    assert texts == alone * 8


def test_16_images_beside_16_streams_of_text(vl: Vision) -> None:
    def stream(number: int) -> str:
        chunks = vl.ask(
            said(f"Tell me about {number}."), max_tokens=64, stream=True, extra_body={"ignore_eos": True}
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    def look(number: int) -> str:
        picture = image(280, 280, color=(number * 16, 0, 0))
        return str(vl.ask(shown(picture), said("?"), max_tokens=8).choices[0].message)

    alone = [stream(number) for number in range(16)], [look(number) for number in range(16)]
    with ThreadPoolExecutor(32) as threads:
        texts, looks = threads.map(stream, range(16)), threads.map(look, range(16))
        assert (list(texts), list(looks)) == alone


def test_100_large_images_in_one_request_take_bounded_memory(vl: Vision) -> None:
    pictures = [shown(page(number, 2400, 2400)) for number in range(100)]  # 17 MB each, decoded
    options = {"mm_processor_kwargs": {"max_pixels": 28 * 28 * 16}}
    vl.ask(*pictures[:2], said("?"), extra_body=options)
    before, peak = sum(vl.memory().values()), 0
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(vl.ask, *pictures, said("?"), extra_body=options)
        while not waiting.done():
            peak = max(peak, sum(vl.memory().values()))
    assert num_image_tokens(waiting.result()) == 100 * num_image_tokens(
        vl.ask(pictures[0], said("?"), extra_body=options)
    )
    sent = len(json.dumps(pictures))
    assert peak - before < 10 * sent + (256 << 20), "and decoded they are 1.7 GB"


def test_2000_images_leave_memory_flat(ocr: Vision) -> None:
    def ask(number: int) -> None:
        size = 240 if number < 200 else 28 + 7 * (number % 40)  # the first fill the caches
        ocr.ask(shown(image(size, size + number % 11, color=(number % 256, number // 256, 9))), said("OCR:"))

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(ask, range(200)))
        before = ocr.memory()
        list(threads.map(ask, range(200, 2000)))
    after = ocr.memory()
    assert before.keys() == after.keys()
    # Of a small engine 5 % are 4 MB, about what malloc's own state varies by.
    grown = {
        name: (used, after[name]) for name, used in before.items() if after[name] > 1.05 * used + (8 << 20)
    }
    assert not grown


def test_no_process_has_died(vl: Vision, ocr: Vision) -> None:
    """Last: whatever the cases before did, each server is the one that was started."""
    for vision in (vl, ocr):
        assert not [line for line in vision.serving.output if "restart" in line or "Traceback" in line]
        assert psutil.pid_exists(vision.serving.process.pid)
