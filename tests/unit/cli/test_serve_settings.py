"""What the flags become: settings of serve, parameters of the engine, flags of the frontend."""

from __future__ import annotations

from pathlib import Path

import pytest

from ernie_cli.errors import CommandError
from ernie_cli.flags.parser import read_flags
from ernie_cli.serve.frontend import base_url, frontend_command
from ernie_cli.serve.settings import ServeSettings
from ernie_frontend.arguments import UsageError


def settings(*flags: str) -> ServeSettings:
    return ServeSettings.from_flags(read_flags(["--model", "DIR", *flags]))


def test_without_flags_the_defaults_are_fastdeploys() -> None:
    read = settings()
    assert (read.model, read.host, read.port, read.engine, read.frontend) == ("DIR", "0.0.0.0", 8000, {}, ())
    assert read.drain_s == 10


def test_only_given_engine_settings_are_passed_on() -> None:
    read = settings("--max-num-seqs", "128", "--gpu-memory-utilization", "0.90", "--quantization", "WINT8")
    assert read.engine == {"max_num_seqs": "128", "gpu_memory_utilization": "0.9", "quantization": "wint8"}


def test_the_scheduler_size_that_means_no_limit_is_left_to_the_engine() -> None:
    assert settings("--scheduler-max-size", "-1").engine == {}
    assert settings("--scheduler-max-size", "7").engine == {"max_num_waiting": "7"}


def test_a_chat_template_is_a_text_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    monkeypatch.chdir(tmp_path)
    assert settings("--chat-template", "mine.jinja").engine["chat_template"] == str(tmp_path / "mine.jinja")
    assert settings("--chat-template", "{{ x }}").engine["chat_template"] == "{{ x }}"
    with pytest.raises(CommandError, match=r"--chat-template no\.jinja"):
        settings("--chat-template", "no.jinja")


def test_the_entry_is_named_by_the_served_name_then_the_given_name_then_the_model() -> None:
    assert ServeSettings("m").entry("ERNIE-4.5-0.3B") == "ERNIE-4.5-0.3B"
    assert ServeSettings("m", name="ernie-tiny").entry("weights") == "ernie-tiny"
    assert ServeSettings("m", name="x", served_model_name="baidu/ernie 4.5").entry("w") == "baidu-ernie-4.5"


def test_a_missing_model_is_told() -> None:
    with pytest.raises(CommandError, match="--model"):
        ServeSettings.from_flags({})


def test_what_the_frontend_would_refuse_is_refused_before_anything_starts() -> None:
    with pytest.raises(CommandError, match=r"--allow-credentials .*--allowed-origins"):
        settings("--allow-credentials")
    with pytest.raises(CommandError, match=r"--allowed-origins .*JSON"):
        settings("--allowed-origins", "a")
    with pytest.raises(UsageError, match="--allowed-local-media-path nosuch is not a directory"):
        settings("--allowed-local-media-path", "nosuch")
    with pytest.raises(UsageError, match="--allowed-media-domains"):
        settings("--allowed-media-domains", "https://b")


def test_the_frontend_gets_its_flags_and_no_key_on_its_command_line() -> None:
    read = settings(
        "--served-model-name", "e", "--timeout-graceful-shutdown", "3", "--api-key", "k", "--port", "9"
    )
    command, environment = frontend_command(read, 1234, "unix:/run/triton.sock:0", "entry", Path("/run"))
    assert command[3:] == [
        "--triton-url=unix:/run/triton.sock:0",
        "--host=0.0.0.0",
        "--port=1234",
        "--default-model=entry",
        "--timeout-graceful-shutdown=3",
        "--served-model-name=e",
    ]
    assert environment["FD_API_KEY"] == "k"


@pytest.mark.parametrize("key", ["", " ", ",", " , "])
def test_a_key_that_is_none_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--api-key"):
        settings("--api-key", "one", "--api-key", key)
    monkeypatch.setenv("FD_API_KEY", key)
    if key:
        with pytest.raises(CommandError, match=r"\$FD_API_KEY"):
            settings()
    else:
        assert not settings().asks_for_keys


def test_keys_are_those_of_the_flag_else_of_the_environment_and_those_of_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FD_API_KEY", "env-1,env-2")
    assert settings().api_keys == ("env-1", "env-2")
    assert settings("--api-key", "a,b", "--api-key", "c").api_keys == ("a", "b", "c")
    path = tmp_path / "keys"
    with pytest.raises(CommandError, match=f"--api-key-file.*{path}"):
        settings("--api-key-file", str(path))
    path.write_text("file-1\n")
    monkeypatch.delenv("FD_API_KEY")
    read = settings("--api-key-file", str(path))
    assert (read.api_keys, read.asks_for_keys) == ((), True)
    command, environment = frontend_command(read, 1, "triton:1", "entry", Path("/run"))
    assert f"--api-key-file={path}" in command
    assert "FD_API_KEY" not in environment


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("::2", "http://[::2]:1"),
        ("h", "http://h:1"),
    ],
)
def test_the_url_is_one_that_this_machine_reaches(host: str, url: str) -> None:
    assert base_url(host, 1) == url
