"""The command line: FastDeploy's flags reach the settings, mistakes are told in a line."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from ernie_cli import main as command_line
from ernie_cli.serve import service as serve_module
from ernie_cli.serve.settings import ServeSettings
from ernie_frontend.log_output import standard_error
from support.paths import DENSE

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


def last_words(capfd: pytest.CaptureFixture[str]) -> str:
    """Return what the command wrote to standard error, which a thread does."""
    standard_error().drain()
    return capfd.readouterr().err


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


@pytest.mark.parametrize("name", ["none", "NONE", '{"quantization": "none"}', "bf16"])
def test_no_quantization_reaches_the_engine_as_none(
    monkeypatch: pytest.MonkeyPatch, served: list[ServeSettings], name: str
) -> None:
    assert run(monkeypatch, f"serve --model DIR --quantization {shlex.quote(name)}") == 0
    assert served[0].engine == {"quantization": "none"}


def test_fastdeploys_object_of_formats_is_the_name_that_it_means(
    monkeypatch: pytest.MonkeyPatch, served: list[ServeSettings]
) -> None:
    mix = '{"moe_quant_type": "wint4", "quantization": "mix_quant", "dense_quant_type": "wint4"}'
    assert run(monkeypatch, f"serve --model DIR --quantization {shlex.quote(mix)}") == 0
    assert served[0].engine == {"quantization": "wint4_all"}


def test_flags_with_underscores_and_the_short_form(
    monkeypatch: pytest.MonkeyPatch, served: list[ServeSettings]
) -> None:
    assert run(monkeypatch, "serve --model DIR -tp 4 --max_model_len=64 --api-key a --api_key b") == 0
    assert served[0].engine == {"tensor_parallel_size": "4", "max_model_len": "64"}
    assert served[0].api_keys == ("a", "b")


def test_a_key_that_every_user_reads_is_noticed(
    monkeypatch: pytest.MonkeyPatch, served: list[ServeSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "serve --model DIR --api-key secret") == 0
    (notice,) = capsys.readouterr().err.splitlines()
    assert notice.startswith("Notice: --api-key is visible")
    assert "secret" not in notice


def test_ports_without_effect_are_noticed_in_a_line_each(
    monkeypatch: pytest.MonkeyPatch, served: list[ServeSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    line = "serve --model DIR --controller-port 1 --engine-worker-queue-port 8189,8289 --cache-queue-port 8191"
    assert run(monkeypatch, line) == 0
    notices = capsys.readouterr().err.splitlines()
    assert [notice.partition(":")[0] for notice in notices] == ["Notice"] * 2
    for flag, notice in zip(("--controller-port", "--cache-queue-port"), notices, strict=True):
        assert notice.startswith(f"Notice: {flag} has no effect here: ")


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("--max-model-length", "--max-model-len"),
        ("--gpu-mem-utilization", "--gpu-memory-utilization"),
        ("--prefix-caching", "--enable-prefix-caching"),
    ],
)
def test_an_unknown_flag_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str, nearest: str
) -> None:
    assert run(monkeypatch, f"serve --model DIR {given} 3") == 2
    assert re.search(f"{given}.*{nearest}$", capsys.readouterr().err.splitlines()[0])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("demo --prot 0", ("ernie-triton demo: ", "--prot", "--port")),
        ("demo --port 99999", ("ernie-triton demo: --port", "99999", "65535")),
        ("quantize a b --quantization int8", ("ernie-triton quantize: --quantization", "int8", "wint4")),
        ("eval --api_key_fil x", ("ernie-triton eval: ", "--api-key-file")),
        ("eval -- stray", ("ernie-triton eval: ", "'stray'")),
        ("serve DIR -- --port 1", ("ernie-triton serve: ", "--port after --")),
        ("nonsense", ("ernie-triton: ", "'nonsense'", "serve")),
        ("--versoin", ("ernie-triton: ", "--versoin", "--version")),
        ("--", ("ernie-triton: ", "COMMAND", "serve")),
    ],
)
def test_every_command_tells_a_mistake_in_a_line_and_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, words: tuple[str, ...]
) -> None:
    assert run(monkeypatch, line) == 2
    shown = capsys.readouterr().err
    assert [word for word in words if word not in shown.splitlines()[0]] == []
    assert "--help lists the flags" in shown.splitlines()[1]


def test_without_a_command_the_commands_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "") == 2
    shown = capsys.readouterr().err
    assert all(name in shown for name in command_line.COMMANDS)


def test_the_help_shows_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in command_line.COMMANDS)
    assert max(map(len, shown.splitlines())) < 80


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--gpu-memory-utilization 1.5", "--gpu-memory-utilization is 1.5"),
        ("--port 65536", "--port is 65536"),
        ("--max-num-seqs many", "--max-num-seqs is 'many'"),
        ("--kv-cache-ratio half", "--kv-cache-ratio is 'half'"),
        ("--dtype float16", "--dtype is 'float16'"),
        (
            "--quantization w8a8",
            "--quantization is 'w8a8'",
        ),
        ("--mm-processor-kwargs nonsense", "--mm-processor-kwargs is 'nonsense'"),
        ("--limit-mm-per-prompt [1]", "--limit-mm-per-prompt is '[1]'"),
        ("--kv-cache-ratio inf", "must be a finite number"),
        ("--port", "--port"),
        ("--served-model-name -x", "write FLAG=VALUE"),
        ("stray", "'stray'"),
    ],
)
def test_a_wrong_value_names_flag_value_and_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: str, complaint: str
) -> None:
    assert run(monkeypatch, f"serve --model DIR {flags}") == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "plan"])
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("DIR stray --port 0", "'stray'"),
        ("DIR --nonsense 3", "--nonsense\n"),
        ("--nonsense DIR", "--nonsense\n"),
    ],
)
def test_an_argument_beside_the_model_is_unexpected(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    arguments: str,
    complaint: str,
) -> None:
    assert run(monkeypatch, f"{command} {arguments}") == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("command", ["eval", "demo", "quantize a b --quantization wint8"])
def test_an_unexpected_argument_is_called_that_by_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(monkeypatch, f"{command} stray") == 2
    assert "stray" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", ["{} --port 0", "--port 0 {}", "--port 0 {} --host ::1", "--port 0 -- {}"]
)
def test_the_model_may_stand_without_its_flag(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: str
) -> None:
    assert run(monkeypatch, f"serve {arguments.format('/nowhere')}") == 1
    assert "--model /nowhere" in last_words(capfd)


def test_a_command_error_is_the_only_line_and_the_status_is_1(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "serve --port 0 --model /nowhere") == 1
    (line,) = last_words(capfd).splitlines()
    assert line.startswith("ernie-triton: --model /nowhere ")


@pytest.mark.parametrize(("language", "heading"), [("en_US.UTF-8", "Service:"), ("zh_CN.UTF-8", "服务:")])
def test_help_is_grouped_and_shows_whole_flag_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], language: str, heading: str
) -> None:
    monkeypatch.setenv("LC_ALL", language)
    assert run(monkeypatch, "serve --help") == 0
    shown = capsys.readouterr().out
    for text in ("--gpu-memory-utilization", "--engine-worker-queue-port", "--max-num-batched-tokens", heading):
        assert text in shown


def test_print_config_tells_values_and_sources_and_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, served: list[ServeSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FD_API_KEY", "secret-1")
    line = f"serve --model {DENSE} --max-model-len 99999 --quantization WINT8 --api-key secret-2 --print-config"
    assert run(monkeypatch, line) == 0
    assert served == []
    shown = capsys.readouterr().out
    assert "secret" not in shown
    rows = {line.split()[0]: line for line in shown.splitlines()}
    assert rows["--max-model-len"].split(maxsplit=2)[1:] == ["2048", "flag 99999, changed by config.json"]
    assert rows["--quantization"].split()[1:] == ["wint8", "flag"]
    assert rows["--max-num-seqs"].split()[1:] == ["8", "default"]
    assert rows["--enable-prefix-caching"].split()[1:] == ["on", "default"]
    assert rows["--api-key"].split()[1:] == ["(set)", "flag"]
    assert rows["FD_API_KEY"].split()[1:] == ["(set)", "environment"]


def test_print_config_tells_a_default_that_the_model_lowers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = json.loads((DENSE / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}))
    assert run(monkeypatch, f"serve --model {tmp_path} --print-config") == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["--max-model-len"].split(maxsplit=2)[1:] == ["1024", "default 2048, changed by config.json"]
    assert rows["--threads"].split(maxsplit=2)[2] == "default (all usable cores)"


def test_a_wrong_json_value_is_a_sentence_about_its_flag(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(monkeypatch, f"serve --model {DENSE} --speculative-config '{{\"num_speculative_tokens\": 3}}'") == 2
    )
    (line, _) = last_words(capfd).splitlines()
    assert line == 'ernie-triton serve: --speculative-config has no method; add "method": "ngram"'


def test_print_config_tells_all_keys_of_a_json_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = """--limit-mm-per-prompt '{"image": 3}' --speculative-config '{"method": "ngram"}'"""
    assert run(monkeypatch, f"serve --model {DENSE} {flags} --print-config") == 0
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()}
    assert re.fullmatch(r'{"image": 3, "video": 1, "audio": 1} +flag', rows["--limit-mm-per-prompt"])
    assert '"num_speculative_tokens": 7' in rows["--speculative-config"]
    assert re.fullmatch("the model's +default", rows["--mm-processor-kwargs"])
    assert run(monkeypatch, f"serve --model {DENSE} --print-config") == 0
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()}
    assert re.fullmatch("none +default", rows["--speculative-config"])


def test_print_config_tells_the_default_of_the_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for device, tokens in (("cpu", "276"), ("xpu", "2048")):
        assert (
            run(monkeypatch, f"serve --model {DENSE} --device {device} --max-num-seqs 20 --print-config") == 0
        )
        rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
        source = "default (on a CPU 256 + --max-num-seqs, else 2048)"
        assert rows["--max-num-batched-tokens"].split(maxsplit=2)[1:] == [tokens, source]


def test_print_config_of_a_hub_model_downloads_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "serve --model PaddlePaddle/ERNIE-4.5-0.3B-Paddle --print-config") == 0
    shown = capsys.readouterr().out
    assert "PaddlePaddle/ERNIE-4.5-0.3B-Paddle" in shown
    assert "not on this machine" in shown.splitlines()[-1]


def test_print_config_tells_what_the_engine_would_refuse(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, f"serve --model {DENSE} -tp 4 --print-config") == 1
    assert "tensor_parallel_size is 4" in last_words(capfd)


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"ernie-triton {version('ernie-triton')}\n"


@pytest.mark.parametrize(("redirection", "said"), [(">/dev/full", "No space left"), ("| true", "")])
def test_lost_output_is_told_unless_its_reader_is_gone(redirection: str, said: str) -> None:
    command = f"{sys.executable} -m ernie_cli plan ERNIE-4.5-0.3B {redirection}"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == bool(said)
    assert done.stderr.count("\n") == bool(said)
    assert said in done.stderr


def test_a_path_that_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, f"plan {'a/' * 4000}") == 1
    assert "too long" in capsys.readouterr().err
