"""A wrong model directory, or a taken port: one clear sentence, last, and exit status 1 before "ready"."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.paths import DENSE

DEADLINE_S = 120.0


def serve(model: Path | str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ernie_cli", "serve", "--model", str(model), "--host", "127.0.0.1"]
    return subprocess.run(
        [*command, *(flags or ("--port", "0"))], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def rewrite_header(directory: Path, change: Callable[[dict[str, dict[str, object]]], None]) -> None:
    """Change the header of model.safetensors; the data stay."""
    path = directory / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def missing_tensor(directory: Path) -> None:
    def rename(header: dict[str, dict[str, object]]) -> None:
        header["model.layers.0.mlp.some_proj.weight"] = header.pop("model.layers.0.mlp.up_proj.weight")

    rewrite_header(directory, rename)


def wrong_shape(directory: Path) -> None:
    def transpose(header: dict[str, dict[str, object]]) -> None:
        tensor = header["model.layers.0.mlp.up_proj.weight"]
        shape = tensor["shape"]
        assert isinstance(shape, list)
        tensor["shape"] = shape[::-1]

    rewrite_header(directory, transpose)


def truncated(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def unknown_architecture(directory: Path) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": ["Llama7ForCausalLM"]}))


def no_tokenizer(directory: Path) -> None:
    for path in directory.glob("tokenizer*"):
        path.unlink()


def no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (missing_tensor, "model.layers.0.mlp.up_proj.weight"),
        (wrong_shape, "model.layers.0.mlp.up_proj.weight"),
        (truncated, "model.safetensors"),
        (unknown_architecture, "Llama7ForCausalLM"),
        (no_tokenizer, "tokenizer"),
        (no_weights, "model.safetensors"),
    ],
)
def test_a_damaged_model_directory(damage: Callable[[Path], None], named: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(DENSE, model)
    damage(model)
    result = serve(model)
    assert result.returncode == 1
    assert result.stdout == ""  # told before anything starts
    (line,) = result.stderr.splitlines()
    assert line.startswith("ernie-triton: ")
    assert named in line


def test_a_taken_port_is_told_before_anything_starts() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        result = serve(DENSE, "--port", str(port))
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"ernie-triton: port {port} is in use")


def test_a_hub_id_without_a_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    result = serve("PaddlePaddle/ERNIE-4.5-0.3B-Paddle")
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ernie-triton: --model PaddlePaddle/ERNIE-4.5-0.3B-Paddle cannot")
    assert "Traceback" not in result.stderr
