"""The command line: FastDeploy's flags reach the settings, mistakes are told in a line."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable

import pytest

from ernie_cli import main as command_line
from ernie_cli import serve as serve_module
from ernie_cli.serve_settings import ServeSettings

TEXT_ROW = (
    "serve --model DIR --port 8188 --tensor-parallel-size 1 --max-model-len 32768 --max-num-seqs 128"
    ' --quantization "WINT8" --gpu-memory-utilization 0.9'
)


def run(monkeypatch: pytest.MonkeyPatch, line: str) -> int | str | None:
    """Run the command as the console script does; return its exit status."""
    monkeypatch.setattr("sys.argv", ["ernie-triton", *shlex.split(line)])
    with pytest.raises(SystemExit) as raised:
        command_line.main()
    return raised.value.code


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServeSettings]:
    """The settings that ``serve`` was called with; nothing is started."""
    settings: list[ServeSettings] = []

    def record(given: ServeSettings, when_ready: Callable[[str], Awaitable[bool]]) -> None:
        settings.append(given)

    monkeypatch.setattr(serve_module, "run_until_stopped", record)
    return settings


def test_a_text_row_of_the_fastdeploy_table(
    monkeypatch: pytest.MonkeyPatch, served: list[ServeSettings]
) -> None:
    assert run(monkeypatch, TEXT_ROW) == 0
    assert served[0].port == 8188
    assert served[0].host == "0.0.0.0"
    assert served[0].engine == {
        "quantization": "wint8",
        "max_model_len": "32768",
        "max_num_seqs": "128",
        "gpu_memory_utilization": "0.9",
        "tensor_parallel_size": "1",
    }


def test_flags_with_underscores_and_the_short_form(
    monkeypatch: pytest.MonkeyPatch, served: list[ServeSettings]
) -> None:
    assert run(monkeypatch, "serve --model DIR -tp 4 --max_model_len 64 --api-key a --api_key b") == 0
    assert served[0].engine == {"tensor_parallel_size": "4", "max_model_len": "64"}
    assert served[0].api_keys == ("a", "b")


def test_ports_without_effect_are_noticed_in_one_line(
    monkeypatch: pytest.MonkeyPatch, served: list[ServeSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    line = "serve --model DIR --metrics-port 8190 --engine-worker-queue-port 8189,8289 --cache-queue-port 8191"
    assert run(monkeypatch, line) == 0
    notice = capsys.readouterr().err
    assert notice == "Notice: no effect here: --metrics-port, --engine-worker-queue-port, --cache-queue-port\n"


def test_an_unknown_flag_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "serve --model DIR --max-model-length 3") == 2
    error = capsys.readouterr().err
    assert "--max-model-length" in error
    assert "--max-model-len" in error.replace("--max-model-length", "")


def test_a_value_out_of_range_names_flag_and_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "serve --model DIR --gpu-memory-utilization 1.5") == 2
    error = capsys.readouterr().err
    assert "--gpu-memory-utilization" in error
    assert "Invalid value" in error


def test_a_command_error_is_the_only_line_and_the_status_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    status = run(monkeypatch, "serve --model /nowhere")
    assert (
        status == "ernie-triton: --model /nowhere does not exist; check the path, or give the model's directory"
    )


def test_help_shows_whole_flag_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "serve --help") == 0
    shown = capsys.readouterr().out
    for flag in ("--gpu-memory-utilization", "--engine-worker-queue-port", "--max-num-batched-tokens"):
        assert flag in shown
