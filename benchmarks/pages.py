"""Pages a minute: PaddleOCR-VL at its full size with random weights, over HTTP, read by ``ernie-triton ocr``.

    .venv/bin/python benchmarks/pages.py --pages 8 --max-tokens 256

The pages are drawn, A4 at 100 pixels per inch: about 1,200 tokens each, as the model's own limit of pixels has
it. Random weights write nonsense, and as long as they may: every answer has ``--max-tokens`` tokens. So the
figure is that of pages with answers of this length. Start and warm-up are not counted.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from model_shapes import SHAPE

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = ROOT / "model_repository" / "ernie-tiny" / "weights"
PLACEHOLDER, START, END = 100295, 101305, 101306
CONFIG: dict[str, Any] = {
    "architectures": ["PaddleOCRVLForConditionalGeneration"],
    "model_type": "paddleocr_vl",
    "image_token_id": PLACEHOLDER,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "tie_word_embeddings": False,
    "text_config": {
        **{name: value for name, value in SHAPE.items() if name not in ("architectures", "rope_theta")},
        "model_type": "paddleocr_vl_text",
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0, "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": False,
    },
    "vision_config": {
        "model_type": "paddleocr_vl_vision",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_channels": 3,
        "image_size": 384,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
}
PIXELS = {"shortest_edge": 112_896, "longest_edge": 1_003_520}
READY_S, STOP_S = 600, 60
_READY = re.compile(r"Launching chat completion service at (\S+)/v1/chat/completions")


def main() -> None:
    """Measure, and print one line."""
    options = _arguments()
    with tempfile.TemporaryDirectory(prefix="pages-") as directory:
        work = Path(directory)
        model = write_model(work / "PaddleOCR-VL")
        flags = ["--max-model-len", "16384", "--max-num-seqs", "256", "--load-choices", "dummy", *options.serve]
        command = [
            "-m",
            "ernie_cli",
            "serve",
            "--model",
            str(model),
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            *flags,
        ]
        server = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            url = _ready(server)
            _read(url, work, "warm-up", 1, options)
            seconds, tokens = _read(url, work, "pages", options.pages, options)
        finally:
            server.terminate()
            server.wait(STOP_S)
    prompt, answer = tokens
    print(
        f"{options.pages} pages in {seconds:.1f} s: {options.pages * 60 / seconds:.2f} pages a minute, "
        f"{prompt / options.pages:.0f} prompt tokens and {answer / options.pages:.0f} of the answer each"
    )


def write_model(directory: Path) -> Path:
    """Write what ``serve`` needs beside random weights: config.json, a tokenizer, limits of pixels."""
    directory.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(TOKENIZER / name, directory)
    added = {"<|IMAGE_PLACEHOLDER|>": PLACEHOLDER, "<|IMAGE_START|>": START, "<|IMAGE_END|>": END}
    processor = {
        "image_processor_type": "PaddleOCRVLImageProcessor",
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "patch_size": 14,
        "temporal_patch_size": 1,
        "merge_size": 2,
        "size": PIXELS,
    }
    for name, content in (("config", CONFIG), ("added_tokens", added), ("preprocessor_config", processor)):
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def draw_page(number: int) -> Image.Image:
    """Return a page of lines of text, 827 by 1169 pixels."""
    picture = Image.new("RGB", (827, 1169), "white")
    draw = ImageDraw.Draw(picture)
    for line in range(50, 1120, 16):
        draw.text((50, line), f"Page {number}, line {line}: " + "the quick brown fox " * 5, fill="black")
    return picture


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure pages a minute of PaddleOCR-VL at full size.")
    parser.add_argument("--pages", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("serve", nargs="*", help="further flags of serve, after --")
    return parser.parse_args()


def _ready(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    begin, lines = time.monotonic(), []
    for line in server.stdout:
        lines.append(line)
        if match := _READY.search(line):
            return match[1]
        if time.monotonic() > begin + READY_S:
            break
    sys.exit("".join([*lines[-20:], "the server did not become ready\n"]))


def _read(
    url: str, work: Path, name: str, pages: int, options: argparse.Namespace
) -> tuple[float, tuple[int, int]]:
    """Have pages read; return the seconds, and the tokens of prompts and answers."""
    folder, output = work / name, work / f"{name}-read"
    folder.mkdir()
    for number in range(pages):
        draw_page(number).save(folder / f"{number:04}.png")
    flags = ["--url", url, "--output", str(output), "--max-tokens", str(options.max_tokens)]
    command = [sys.executable, "-m", "ernie_cli", "ocr", str(folder), *flags]
    begin = time.monotonic()
    subprocess.run([*command, "--concurrency", str(options.concurrency)], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - begin
    usage = [record["usage"] for record in json.loads((output / "document.json").read_text())]
    return seconds, (
        sum(each["prompt_tokens"] for each in usage),
        sum(each["completion_tokens"] for each in usage),
    )


if __name__ == "__main__":
    main()
