"""Models by id, from a local stand-in for the hub: which files, which id, an interruption, every refusal."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from ernie_cli.errors import CommandError
from ernie_cli.model.hub import candidates, download_model
from fakes.model_hub import COMMIT, ModelHub

DEADLINE_S = 120.0
WEIGHTS = bytes(range(256)) * (24 << 12)  # 24 MiB: the client writes its files in pieces of 10 MB
STOP = 16 << 20
FILES = {
    "config.json": b'{"hidden_size": 8}',
    "tokenizer.model": b"pieces",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "modeling_ernie.py": b"code",
    "onnx/config.json": b"{}",
    "README.md": b"text",
}
WANTED = {"config.json", "tokenizer.model", "chat_template.jinja", "model.safetensors"}
PROGRAM = """
import sys
from ernie_cli.errors import CommandError
from ernie_cli.model.source import find_model
try:
    revision = sys.argv[2] if len(sys.argv) > 2 else None
    print(find_model(sys.argv[1], revision, with_weights="--dummy" not in sys.argv).directory)
except CommandError as error:
    sys.exit(error.message)
from huggingface_hub import constants
assert constants.HF_HUB_DISABLE_TELEMETRY, "the client tells the hub what else is installed here"
"""


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    with ModelHub(
        {"baidu/ERNIE-4.5-0.3B-Paddle": FILES, "some/gated": FILES}, frozenset(["some/gated"])
    ) as running:
        yield running


@pytest.fixture
def environment(hub: ModelHub, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_ETAG_TIMEOUT": "5"}


def start(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def download(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Return exit status, printed directory and the last line of the errors."""
    process = start(environment, *arguments)
    output, errors = process.communicate(timeout=DEADLINE_S)
    return process.returncode, output.strip(), errors.strip().splitlines()[-1] if errors.strip() else ""


def test_the_seeds_id_is_found_under_baidu_and_only_what_a_model_needs_is_fetched(
    hub: ModelHub, environment: dict[str, str]
) -> None:
    process = start(environment, "PaddlePaddle/ERNIE-4.5-0.3B-Paddle")
    directory, told = (text.strip() for text in process.communicate(timeout=DEADLINE_S))
    assert process.returncode == 0, told
    assert "100%" in told, "the progress is shown"
    assert {path.name for path in Path(directory).iterdir()} == WANTED
    assert {request.path for request in hub.requests} == WANTED
    assert (Path(directory) / "model.safetensors").read_bytes() == WEIGHTS
    assert Path(directory).name == COMMIT


def test_what_is_there_is_not_fetched_again_even_without_the_hub(
    hub: ModelHub, environment: dict[str, str]
) -> None:
    _, first, _ = download(environment, "baidu/ERNIE-4.5-0.3B-Paddle")
    hub.requests.clear()
    assert download(environment, "baidu/ERNIE-4.5-0.3B-Paddle")[1] == first
    assert hub.requests == []
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    assert download(offline, "PaddlePaddle/ERNIE-4.5-0.3B-Paddle")[1] == first


def test_an_interrupted_file_goes_on_where_it_stopped(hub: ModelHub, environment: dict[str, str]) -> None:
    hub.stop_after["model.safetensors"] = STOP
    process = start(environment, "baidu/ERNIE-4.5-0.3B-Paddle")
    assert hub.stopped.wait(DEADLINE_S)
    home = Path(environment["HF_HOME"])
    deadline = time.monotonic() + DEADLINE_S
    while not any(path.stat().st_size for path in home.rglob("*.incomplete")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()
    hub.stop_after.clear()
    hub.requests.clear()
    status, directory, error = download(environment, "baidu/ERNIE-4.5-0.3B-Paddle")
    assert status == 0, error
    assert (Path(directory) / "model.safetensors").read_bytes() == WEIGHTS
    (again,) = [request for request in hub.requests if request.path == "model.safetensors"]
    assert 0 < again.first_byte <= STOP


def test_random_weights_need_no_download_of_weights(hub: ModelHub, environment: dict[str, str]) -> None:
    status, directory, error = download(environment, "baidu/ERNIE-4.5-0.3B-Paddle", "main", "--dummy")
    assert status == 0, error
    assert {path.name for path in Path(directory).iterdir()} == WANTED - {"model.safetensors"}
    assert "model.safetensors" not in {request.path for request in hub.requests}


def test_models_are_kept_where_fastdeploys_variable_says(environment: dict[str, str], tmp_path: Path) -> None:
    cache = tmp_path / "elsewhere"
    _, directory, _ = download({**environment, "FD_MODEL_CACHE": str(cache)}, "baidu/ERNIE-4.5-0.3B-Paddle")
    assert Path(directory).is_relative_to(cache)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("some/gated",), ("some/gated is gated", "HF_TOKEN")),
        (("some/unknown",), ("some/unknown: not found, or private", "give the model's directory")),
        (
            ("PaddlePaddle/ERNIE-4.5-9B",),
            ("PaddlePaddle/ERNIE-4.5-9B: not found", "baidu/ERNIE-4.5-9B: not found"),
        ),
        (("baidu/ERNIE-4.5-0.3B-Paddle", "no-such-branch"), ("--revision no-such-branch", "no such branch")),
        (("some/" + "x" * 200,), ("neither a directory nor an id",)),
    ],
)
def test_a_refusal_is_one_sentence_with_the_way_out(
    environment: dict[str, str], arguments: tuple[str, ...], told: tuple[str, ...]
) -> None:
    status, _, error = download(environment, *arguments)
    assert status == 1
    for part in told:
        assert part in error


@pytest.mark.parametrize("extra", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_hub_the_error_says_what_to_do(environment: dict[str, str], extra: dict[str, str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
        status, _, error = download(
            {**environment, "HF_ENDPOINT": nowhere, **extra}, "baidu/ERNIE-4.5-0.3B-Paddle"
        )
    assert status == 1
    for part in (nowhere, "HF_ENDPOINT", "hf download ID --local-dir", "HF_HUB_OFFLINE=1"):
        assert part in error


def test_ids_to_try() -> None:
    assert candidates("PaddlePaddle/ERNIE-4.5-X") == ("PaddlePaddle/ERNIE-4.5-X", "baidu/ERNIE-4.5-X")
    assert candidates("PaddlePaddle/PaddleOCR-VL") == ("PaddlePaddle/PaddleOCR-VL",)
    assert candidates("baidu/ERNIE-4.5-X") == ("baidu/ERNIE-4.5-X",)


def test_an_unknown_source_is_told() -> None:
    with pytest.raises(CommandError, match=r"FD_MODEL_SOURCE .*NOWHERE"):
        download_model("a/b", None, {"FD_MODEL_SOURCE": "nowhere"})


@pytest.mark.parametrize(
    ("source", "module", "package"),
    [("MODELSCOPE", "modelscope", "modelscope"), ("AISTUDIO", "aistudio_sdk", "aistudio-sdk")],
)
def test_a_client_that_is_not_installed_is_named(
    source: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CommandError, match=f"pip install {package}"):
        download_model("a/b", None, {"FD_MODEL_SOURCE": source})


@pytest.mark.parametrize(
    ("source", "module"),
    [("modelscope", "modelscope.hub.snapshot_download"), ("AISTUDIO", "aistudio_sdk.snapshot_download")],
)
def test_another_client_gets_the_same_wishes_and_both_ids(
    source: str, module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[dict[str, object]] = []

    def snapshot_download(**wishes: object) -> str:
        asked.append(wishes)
        if wishes["repo_id"] != "baidu/ERNIE-4.5-X":
            raise RuntimeError("no such repository")
        return str(tmp_path)

    client = types.ModuleType(module)
    client.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    for name in ("modelscope", "modelscope.hub", "aistudio_sdk"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module, client)
    environment = {"FD_MODEL_SOURCE": source, "FD_MODEL_CACHE": "/cache"}
    assert download_model("PaddlePaddle/ERNIE-4.5-X", "v1", environment) == tmp_path
    assert [each["repo_id"] for each in asked] == ["PaddlePaddle/ERNIE-4.5-X", "baidu/ERNIE-4.5-X"]
    assert asked[1]["revision"] == "v1"
    assert asked[1]["local_dir"] == "/cache/baidu/ERNIE-4.5-X"
    with pytest.raises(CommandError, match="some/other"):
        download_model("some/other", None, environment)
