"""``ernie-triton ocr`` against a scripted server: what it sends, writes and repeats, and how it fails."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pypdfium2
import pytest
from PIL import Image

from ernie_cli.main import main
from invoke import Result, invoke
from support.free_ports import free_port

Reply = tuple[int, Mapping[str, str], Any]


class Api:
    """A server whose answers are scripted, and the bodies and headers that it got."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.models: list[Any] = [{"id": "ocr"}]
        self.reply: Callable[[dict[str, Any]], Reply] = lambda body: answered(f"text {picture(body).width}")
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                api.bodies.append(body)
                api.headers.append(dict(self.headers))
                self.respond(*api.reply(body))

            def do_GET(self) -> None:
                assert self.path == "/v1/models"
                self.respond(200, {}, {"object": "list", "data": api.models})

            def respond(self, status: int, headers: Mapping[str, str], value: Any) -> None:
                content = (value if isinstance(value, str) else json.dumps(value)).encode()
                self.send_response(status)
                for name, text in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, text)
                with contextlib.suppress(ConnectionError):  # the command may have been interrupted
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def api() -> Iterator[Api]:
    served = Api()
    thread = threading.Thread(target=served.server.serve_forever, daemon=True)
    thread.start()
    yield served
    served.server.shutdown()
    served.server.server_close()
    thread.join()


def answered(text: str, **choice: Any) -> Reply:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop", **choice}]
    return 200, {}, {"model": "ocr", "choices": choices, "usage": {"completion_tokens": 3}}


def refused(status: int, message: str, **headers: str) -> Reply:
    return status, headers, {"error": {"message": message}}


def picture(body: dict[str, Any]) -> Image.Image:
    """Return the picture of a request."""
    image, _ = body["messages"][0]["content"]
    content = image["image_url"]["url"].partition(";base64,")[2]
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, of 10, 20 and 30 pixels, one of them in a folder below, and a file that is no page."""
    pages = tmp_path / "pages"
    (pages / "more").mkdir(parents=True)
    for name, width in (("a.png", 10), ("b.JPG", 20), ("more/c.webp", 30)):
        Image.new("RGB", (width, 8), "white").save(pages / name)
    (pages / "notes.txt").write_text("no page")
    return pages


def ocr(api: Api, *arguments: str | Path) -> Result:
    return invoke("ocr", "--url", api.url, *map(str, arguments))


def test_a_folder_becomes_markdown_and_json(api: Api, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = ocr(api, folder, "--output", output)
    assert (result.exit_code, result.exception) == (0, None)
    assert result.stdout.startswith("3 of 3 pages read in ")
    assert sorted(str(path.relative_to(output)) for path in output.rglob("*.*")) == [
        "a.png.json", "a.png.md", "b.JPG.json", "b.JPG.md", "document.json", "document.md",
        "more/c.webp.json", "more/c.webp.md",
    ]  # fmt: skip
    assert (output / "a.png.md").read_text() == "text 10\n"
    record = json.loads((output / "more" / "c.webp.json").read_text())
    assert (record["text"], record["finish_reason"], record["model"]) == ("text 30", "stop", "ocr")
    assert record["usage"] == {"completion_tokens": 3}
    assert (output / "document.md").read_text() == (
        "<!-- a.png -->\n\ntext 10\n\n<!-- b.JPG -->\n\ntext 20\n\n<!-- more/c.webp -->\n\ntext 30\n"
    )
    assert [each["page"] for each in json.loads((output / "document.json").read_text())] == [
        "a.png", "b.JPG", "more/c.webp",
    ]  # fmt: skip


def test_what_is_sent_is_what_paddlex_sends(api: Api, folder: Path, tmp_path: Path) -> None:
    ocr(api, folder / "a.png", "--output", tmp_path, "--api-key", "secret", "--model", "vl")
    (body,), (headers,) = api.bodies, api.headers
    image, text = body["messages"][0]["content"]
    assert (image["type"], text) == ("image_url", {"type": "text", "text": "OCR:"})
    others = {"model": "vl", "temperature": 0, "max_tokens": 4096}
    assert body == {"messages": body["messages"], **others}
    assert headers["Authorization"] == "Bearer secret"
    ocr(api, folder / "a.png", "--output", tmp_path / "spotting", "--task", "spotting", "--max-tokens", "9")
    body = api.bodies[-1]
    assert body["messages"][0]["content"][1]["text"] == "Spotting:"
    assert (body["skip_special_tokens"], body["max_tokens"]) == (False, 9)
    assert body["mm_processor_kwargs"] == {"min_pixels": 112_896, "max_pixels": 1_605_632}


def test_what_was_read_is_not_read_again(api: Api, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    ocr(api, folder, "--output", output)
    (output / "more" / "c.webp.json").write_text("{")  # as if the disk had been full
    Image.new("RGB", (11, 8), "white").save(folder / "a.png")
    api.bodies.clear()
    result = ocr(api, folder, "--output", output)
    assert sorted(picture(body).width for body in api.bodies) == [11, 30]
    assert "1 read before" in result.stdout
    assert (output / "document.md").read_text().count("text") == 3
    for again, count in ((("--again",), 3), (("--max-tokens", "9"), 0), ((), 0)):
        api.bodies.clear()
        assert ocr(api, folder, "--output", output, *again).exit_code == 0
        assert len(api.bodies) == count


def test_a_page_that_fails_is_listed_and_the_others_are_read(api: Api, folder: Path, tmp_path: Path) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        width = picture(body).width
        return refused(400, "the image is\x1b[2J too small") if width == 20 else answered(f"text {width}")

    api.reply = reply
    output = tmp_path / "out"
    result = ocr(api, folder, "--output", output)
    assert result.exit_code == 1
    failed, summary = result.stdout.splitlines()
    assert failed == "b.JPG: status 400: the image is\\x1b[2J too small"
    assert summary.startswith("2 of 3 pages read")
    assert not (output / "b.JPG.json").exists()
    assert "b.JPG" not in (output / "document.md").read_text()
    api.bodies.clear()
    ocr(api, folder, "--output", output)
    assert [picture(body).width for body in api.bodies] == [20], "it is tried again"


def test_a_busy_server_is_asked_again(api: Api, folder: Path, tmp_path: Path) -> None:
    busy = iter([429, 503])

    def reply(body: dict[str, Any]) -> Reply:
        status = next(busy, None)
        return answered("text") if status is None else refused(status, "busy", **{"Retry-After": "0"})

    api.reply = reply
    result = ocr(api, folder, "--output", tmp_path / "out", "--concurrency", "1")
    assert (result.exit_code, len(api.bodies)) == (0, 5)


def test_cut_pages_are_listed_and_marked_and_a_higher_limit_reads_them_again(
    api: Api, folder: Path, tmp_path: Path
) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        width = picture(body).width
        if width == 30:
            return answered("text 30")
        return answered(
            "xx", finish_reason="length", stop_reason="repetition_detected" if width == 20 else None
        )

    api.reply = reply
    output = tmp_path / "out"
    for _ in range(2):  # what was read before is listed too
        result = ocr(api, folder, "--output", output, "--max-tokens", "3")
        assert result.exit_code == 0
        limit, loop, summary = result.stdout.splitlines()
        assert limit.startswith("a.png: cut: --max-tokens 3 is reached; run again with a higher one")
        assert loop.startswith("b.JPG: cut: the answer repeated itself")
        assert "; 2 cut before their end; results in" in summary
    first, second, whole = (output / "document.md").read_text().split("<!-- ")[1:]
    assert "xx\n\n> **Cut here:** --max-tokens 3" in first
    assert "**Cut here:** the answer repeated itself" in second
    assert "Cut" not in whole
    assert "**Cut here:**" in (output / "a.png.md").read_text()
    record = json.loads((output / "b.JPG.json").read_text())
    assert (record["finish_reason"], record["stop_reason"]) == ("length", "repetition_detected")
    api.bodies.clear()
    result = ocr(api, folder, "--output", output, "--max-tokens", "9")
    assert [picture(body).width for body in api.bodies] == [10]
    assert "a.png: cut: the context is full after 3 tokens" in result.stdout


def test_the_document_has_all_results_of_the_folder(api: Api, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    ocr(api, folder, "--output", output)
    api.reply = lambda _: answered("anew")
    result = ocr(api, folder / "b.JPG", "--output", output, "--again")
    assert result.stdout.startswith("1 of 1 pages read")
    records = json.loads((output / "document.json").read_text())
    assert [(record["page"], record["text"]) for record in records] == [
        ("a.png", "text 10"), ("b.JPG", "anew"), ("more/c.webp", "text 30"),
    ]  # fmt: skip
    assert (output / "document.md").read_text().count("<!-- ") == 3


def test_results_of_another_task_are_not_overwritten(api: Api, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    ocr(api, folder / "a.png", "--output", output)
    before = {path: path.read_bytes() for path in output.iterdir()}
    api.bodies.clear()
    result = ocr(api, folder / "b.JPG", "--output", output, "--task", "table", "--again")
    assert result.exit_code == 1
    assert re.search("results of --task ocr, such as a.png; give another --output", str(result.exception))
    assert not api.bodies
    assert {path: path.read_bytes() for path in output.iterdir()} == before


def test_an_interruption_says_what_is_kept(
    api: Api,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        if len(api.bodies) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return answered("text")

    api.reply = reply
    output = tmp_path / "out"
    command = ["ernie-triton", "ocr", "--url", api.url, str(folder), "--output", str(output)]
    monkeypatch.setattr("sys.argv", [*command, "--concurrency", "1"])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 130
    words = capsys.readouterr().err
    assert words == f"Aborted. Finished pages are kept in {output}; the same command reads the rest.\n"
    assert "a.png" in (output / "document.md").read_text()
    assert "1 read before" in ocr(api, folder, "--output", output).stdout


def test_pages_of_a_pdf_are_drawn(api: Api, tmp_path: Path) -> None:
    document = pypdfium2.PdfDocument.new()
    document.new_page(72, 36)
    document.new_page(144, 36)
    document.save(tmp_path / "two.pdf")
    document.close()
    output = tmp_path / "out"
    assert ocr(api, tmp_path / "two.pdf", "--output", output, "--dpi", "100").exit_code == 0
    assert sorted(picture(body).size for body in api.bodies) == [(100, 50), (200, 50)]
    assert [path.name for path in sorted(output.glob("two*.md"))] == ["two.pdf-0001.md", "two.pdf-0002.md"]
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.4 nothing")
    result = ocr(api, tmp_path / "two.pdf", tmp_path / "bad.pdf", "--output", output, "--dpi", "100")
    assert result.exit_code == 1
    assert "bad.pdf: it is not a PDF" in result.stdout


def test_a_table_and_its_tags(api: Api, folder: Path, tmp_path: Path) -> None:
    api.reply = lambda _: answered("<fcel>a<fcel>b<nl><fcel>1<ecel><nl>")
    ocr(api, folder / "a.png", "--output", tmp_path, "--task", "table")
    assert (tmp_path / "a.png.md").read_text() == "| a | b |\n| --- | --- |\n| 1 |  |\n"
    assert json.loads((tmp_path / "a.png.json").read_text())["text"].startswith("<fcel>")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda _: refused(401, "no key"), "API key.*no key.*--api-key"),
        (lambda _: refused(400, "only text"), "none of 3 pages.*a.png.*only text"),
        (
            lambda _: (404, {}, "<!DOCTYPE html>\n<html><b>Not found</b></html>"),
            "a.png: status 404: an HTML page, which is not from an OpenAI API; check --url[^<]*$",
        ),
        (lambda _: (200, {}, ["no completion"]), "none of 3 pages.*not an OpenAI chat completion"),
    ],
)
def test_a_server_that_reads_nothing_ends_it(
    api: Api, folder: Path, tmp_path: Path, reply: Callable[[dict[str, Any]], Reply], said: str
) -> None:
    api.reply = reply
    result = ocr(api, folder, "--output", tmp_path / "out", "--concurrency", "1")
    assert result.exit_code == 1
    assert re.search(said, str(result.exception))


@pytest.mark.parametrize(
    ("models", "is_noticed"),
    [
        ([{"id": "vl", "architecture": "Ernie4_5_VLMoeForConditionalGeneration"}], True),
        ([{"id": "a", "architecture": "A"}, {"id": "default", "architecture": "B"}], True),
        ([{"id": "ocr", "architecture": "PaddleOCRVLForConditionalGeneration"}], False),
        ([{"id": "starting", "architecture": None}], False),
        ([], False),
        (["no card"], False),
    ],
)
def test_a_model_of_another_architecture_is_noticed(
    api: Api,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    models: list[Any],
    is_noticed: bool,
) -> None:
    api.models = models
    assert ocr(api, folder / "a.png", "--output", tmp_path / "out").exit_code == 0
    words = capsys.readouterr().err
    assert ("not PaddleOCR-VL" in words) == is_noticed
    assert words.startswith("Notice: ") == is_noticed


@pytest.mark.parametrize("name", ["empty.png", "empty.pdf"])
def test_an_empty_file_is_called_so(api: Api, tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    result = ocr(api, tmp_path / name, "--output", tmp_path / "out")
    assert str(result.exception).endswith(f"{name}: the file is empty")
    assert not api.bodies


def test_what_cannot_be_read_is_said_before_anything_is_sent(api: Api, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "again" / "a.png")
    for paths, said in (
        ((tmp_path / "nothing",), "does not exist"),
        ((folder / "more" / "none",), "does not exist"),
        (
            (folder, tmp_path / "again"),
            f"{folder / 'a.png'} and {tmp_path / 'again' / 'a.png'} have the same name",
        ),
        ((folder, "--output", folder / "notes.txt"), "notes.txt is a file; give a directory"),
    ):
        result = ocr(api, "--output", tmp_path / "out", *paths)
        assert result.exit_code == 1
        assert said in str(result.exception)
    assert not api.bodies
    result = invoke(
        "ocr", "--url", f"http://127.0.0.1:{free_port()}", str(folder), "--output", str(tmp_path / "o")
    )
    assert "no server at" in str(result.exception)
