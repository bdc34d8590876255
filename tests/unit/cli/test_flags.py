"""The table of flags: complete, and each flag has the effect, the notice or the refusal that it claims."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import pytest

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.settings.engine_settings import SETTINGS
from ernie_backend.settings.kinds import Choice, FirstPort, Integer, Number, OrNone, Switch
from ernie_backend.settings.reader import read_settings
from ernie_cli.flags.document import FILES, document
from ernie_cli.flags.environment import READ
from ernie_cli.flags.fastdeploy import USUAL_VARIABLES, VARIABLES
from ernie_cli.flags.flag import Flag, JsonObject, NoEffect, Passed, QuantizationName, Refused
from ernie_cli.flags.parser import help_text, notices, read_flags
from ernie_cli.flags.table import FLAGS, GROUPS
from ernie_cli.serve.frontend import frontend_command
from ernie_cli.serve.settings import ServeSettings
from ernie_cli.triton.run_directory import write_entry
from ernie_frontend.__main__ import arguments_parser
from ernie_frontend.arguments import UsageError
from support.paths import DENSE, ROOT

FASTDEPLOY = (ROOT / "tests/data/fastdeploy/flags.txt").read_text().split()
VARIABLE_NAMES = (ROOT / "tests/data/fastdeploy/variables.txt").read_text().split()
KEYS = str(ROOT / "tests/data/fastdeploy/variables.txt")  # any file with a word a line
SAMPLES = {
    "--activation-dtype": "float32",
    "--engine-worker-queue-port": "8189",
    "--chat-template": '{{ "a" }}\n{{ 1 }}',
    "--gpu-memory-utilization": "0.5",
    "--port": "8188",
    "--max-model-len": "64",
    "--api-key-file": KEYS,
    "--allowed-local-media-path": "/",
    "--allowed-origins": '["https://a.example"]',
    "--allowed-methods": '["GET", "POST"]',
    "--allowed-headers": '["*"]',
    "--speculative-config": '{"method": "ngram"}',
    "--limit-mm-per-prompt": '{"image": 10, "video": 3}',
    "--mm-processor-kwargs": '{"video_max_frames": 30, "video_frames_sample": "middle"}',
}
"""Values for flags whose kind alone does not tell a valid one."""
NEEDED = {
    name: ["--allowed-origins", '["https://b.example"]']
    for name in ("--allowed-methods", "--allowed-headers", "--allow-credentials")
}
"""What must be given with a flag."""
READ_BY_SERVE: Mapping[str, tuple[str, str, object]] = {
    "--model": ("DIR2", "model", "DIR2"),
    "--host": ("::1", "host", "::1"),
    "--port": ("8188", "port", 8188),
    "--api-key": ("k1", "api_keys", ("k1",)),
    "--api-key-file": (KEYS, "api_key_file", Path(KEYS)),
    "--served-model-name": ("ernie", "served_model_name", "ernie"),
    "--timeout-graceful-shutdown": ("7", "drain_s", 7),
    "--metrics-port": ("8181", "metrics_port", 8181),
    "--triton-http-port": ("1", "triton_http_port", 1),
    "--triton-grpc-port": ("2", "triton_grpc_port", 2),
    "--triton-metrics-port": ("3", "triton_metrics_port", 3),
    "--revision": ("v1", "revision", "v1"),
    "--chat-template": (f"{DENSE}/../dense.json", "engine", {"chat_template": str(DENSE.with_suffix(".json"))}),
    "--scheduler-max-size": ("-1", "engine", {}),
}
"""What becomes of the flags that ``serve`` itself reads: a value, a setting and its value then."""


def flags_with(effect: type[NoEffect | Refused]) -> list[Flag]:
    return [flag for flag in FLAGS.values() if isinstance(flag.effect, effect)]


def passed() -> list[tuple[Flag, Passed]]:
    return [(flag, flag.effect) for flag in FLAGS.values() if isinstance(flag.effect, Passed)]


def refused() -> list[tuple[Flag, Refused]]:
    return [(flag, flag.effect) for flag in FLAGS.values() if isinstance(flag.effect, Refused)]


ENGINE = [(flag, effect.engine) for flag, effect in passed() if effect.engine and flag.name != "--model"]
FRONTEND = [flag for flag, effect in passed() if effect.frontend]
NEUTRAL = [(flag, value) for flag, effect in refused() for value in effect.neutral]


def named(flag: Flag) -> str:
    return flag.name


def sample(flag: Flag, but_not: tuple[str, ...] = ()) -> str:
    """Return a valid value, but none of ``but_not``."""
    match flag.kind:
        case _ if flag.name in SAMPLES:
            return SAMPLES[flag.name]
        case Choice(known):
            return next(word for word in known if word not in but_not)
        case Integer(low, high):
            return next(str(each) for each in range(max(low, 1), high + 1) if str(each) not in but_not)
        case Number():
            return "1.0"
        case JsonObject():
            return '{"a": 1}'
        case QuantizationName():
            return "wint8"
        case FirstPort():
            return "8189"
        case OrNone(Choice(known), _):
            return known[0]
        case OrNone(kind, _):
            return "1.0" if isinstance(kind, Number) else "some-value"
    return "some-value"


def read(flag: Flag, value: str) -> dict[str, str]:
    """Return what is read of a command line with this flag."""
    arguments = ["--model", "DIR", *NEEDED.get(flag.name, ())] if flag.name != "--model" else []
    arguments.append(flag.name)
    return read_flags([*arguments, *([] if isinstance(flag.kind, Switch) else [value])])


def outcome(arguments: list[str]) -> str:
    """Return what is read, or why it is not."""
    try:
        return str(read_flags(arguments))
    except UsageError as error:
        return str(error)


def parameters(settings: ServeSettings) -> dict[str, str]:
    """Return the parameters in the config.pbtxt that is written."""
    with tempfile.TemporaryDirectory() as entry:
        write_entry(Path(entry), settings.engine)
        text = Path(entry, "config.pbtxt").read_text()
    pairs = re.findall(r'key: "(\w+)" value { string_value: "((?:[^"\\]|\\.)*)"', text)
    return {name: value.replace(r"\n", "\n").replace(r"\"", '"') for name, value in pairs}


@pytest.mark.parametrize("name", FASTDEPLOY)
def test_every_flag_of_fastdeploy_is_in_the_table(name: str) -> None:
    assert FLAGS[name].fastdeploy is not None


@pytest.mark.parametrize("name", VARIABLE_NAMES)
def test_every_variable_of_fastdeploy_is_in_the_table(name: str) -> None:
    assert name in {*READ, *USUAL_VARIABLES, *VARIABLES}


def test_flags_that_fastdeploy_does_not_have_are_told_as_ours() -> None:
    ours = {flag.name for flag in FLAGS.values() if flag.fastdeploy is None}
    assert ours == set(FLAGS) - set(FASTDEPLOY)


def test_no_flag_is_in_two_groups() -> None:
    assert sum(len(group.flags) for group in GROUPS) == len(FLAGS)


@pytest.mark.parametrize("flag", FLAGS.values(), ids=named)
def test_both_spellings_are_read_alike(flag: Flag) -> None:
    value = [] if isinstance(flag.kind, Switch) else [sample(flag)]
    dashed = outcome([flag.name, *value])
    assert flag.name in dashed
    assert outcome([f"--{flag.name[2:].replace('-', '_')}", *value]) == dashed


@pytest.mark.parametrize(("flag", "parameter"), ENGINE, ids=lambda each: getattr(each, "name", ""))
def test_a_flag_of_the_engine_reaches_config_pbtxt_and_the_engine_reads_it(flag: Flag, parameter: str) -> None:
    value = sample(flag)
    written = parameters(ServeSettings.from_flags(read(flag, value)))
    assert written == {parameter: "true" if isinstance(flag.kind, Switch) else value}
    assert parameter in SETTINGS
    config = ModelConfig.from_directory(DENSE)
    settings = read_settings({**written, "model": str(DENSE)}, config)
    found = settings.flat[parameter]
    found = found.value if isinstance(found, Enum) else found
    assert str(found) in (value, str(float(value)) if value.isdigit() else value, "True")


@pytest.mark.parametrize("flag", FRONTEND, ids=named)
def test_a_flag_of_the_frontend_reaches_its_command_line_and_it_knows_it(flag: Flag) -> None:
    value = sample(flag)
    settings = ServeSettings.from_flags(read(flag, value))
    command, _ = frontend_command(settings, settings.port, "triton:1", "entry", Path("/run"))
    assert (flag.name if isinstance(flag.kind, Switch) else f"{flag.name}={value}") in command
    assert flag.name in arguments_parser().format_help()


@pytest.mark.parametrize("name", ["--workers", "--max-concurrency"])
def test_a_default_of_the_frontend_is_that_of_the_table(name: str) -> None:
    assert FLAGS[name].effect == Passed(frontend=True)
    dest = name.removeprefix("--").replace("-", "_")
    assert str(arguments_parser().get_default(dest)) == FLAGS[name].default


@pytest.mark.parametrize("name", READ_BY_SERVE)
def test_a_flag_of_serve_changes_a_setting(name: str) -> None:
    value, setting, then = READ_BY_SERVE[name]
    effect = FLAGS[name].effect
    assert isinstance(effect, Passed)
    unread = {effect.engine: value} if setting == "engine" else getattr(ServeSettings("DIR"), setting)
    assert unread != then
    assert getattr(ServeSettings.from_flags(read(FLAGS[name], value)), setting) == then


def test_every_flag_of_serve_is_read_by_it() -> None:
    """``--print-config`` changes no setting: test_command_line.py."""
    assert {flag.name for flag, effect in passed() if effect.serve} == {*READ_BY_SERVE, "--print-config"}


@pytest.mark.parametrize("flag", flags_with(NoEffect), ids=named)
def test_a_flag_without_effect_says_so_in_a_line(flag: Flag) -> None:
    assert isinstance(flag.effect, NoEffect)
    given = read(flag, sample(flag))
    assert notices(given, {}) == [f"{flag.name} has no effect here: {flag.effect.why.en}"]
    settings = ServeSettings.from_flags(given)
    assert (settings.engine, settings.frontend) == ({}, ())


@pytest.mark.parametrize("flag", flags_with(Refused), ids=named)
def test_a_flag_that_would_be_missed_is_refused(flag: Flag) -> None:
    assert isinstance(flag.effect, Refused)
    with pytest.raises(UsageError) as raised:
        read(flag, sample(flag, flag.effect.neutral))
    message = str(raised.value)
    assert message.startswith(flag.name)
    assert flag.effect.why.en in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["--enable-early-stop", "--early-stop-config"])
def test_what_stops_a_repetition_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=r"repetition_detection.*docs/sampling\.md"):
        read(FLAGS[name], sample(FLAGS[name]))


@pytest.mark.parametrize(("flag", "value"), NEUTRAL)
def test_a_neutral_value_is_taken_in_silence(flag: Flag, value: str) -> None:
    given = read(flag, "DIR" if value == "--model" else value)
    assert flag.name in given
    assert notices(given, {}) == []


@pytest.mark.parametrize(
    "flag",
    [flag for flag in FLAGS.values() if isinstance(flag.kind, Switch) and flag.kind.has_opposite],
    ids=named,
)
def test_the_opposite_of_a_switch_is_read(flag: Flag) -> None:
    opposite = flag.name.replace("--", "--no-", 1)
    assert read_flags(["--model", "DIR", opposite])[flag.name] == "false"
    if isinstance(flag.effect, Passed):
        assert list(ServeSettings.from_flags(read_flags(["--model", "D", opposite])).engine.values()) == [
            "false"
        ]


@pytest.mark.parametrize("name", [*READ, *USUAL_VARIABLES, *VARIABLES])
def test_a_variable_without_effect_is_noticed_when_it_was_set_on_purpose(name: str) -> None:
    shown = notices({}, {name: "1"})
    assert shown == ([f"{name} has no effect here: {VARIABLES[name].en}"] if name in VARIABLES else [])


@pytest.mark.parametrize("flag", [flag for flag, _ in ENGINE], ids=named)
def test_a_default_that_is_no_value_is_told_in_words(flag: Flag) -> None:
    assert flag.default not in ("", "None")


@pytest.mark.parametrize("language", FILES)
def test_help_and_document_tell_every_flag_and_every_variable(language: str) -> None:
    shown, written = help_text(language), document(language)
    for name in FLAGS:
        assert re.search(rf"^  {name}\b", shown, re.MULTILINE)
        assert re.search(rf"^\| `{name}`", written, re.MULTILINE)
    for variable in (*READ, *USUAL_VARIABLES, *VARIABLES):
        assert f"| `{variable}` |" in written


@pytest.mark.parametrize(("language", "name"), FILES.items())
def test_the_documents_are_made_from_the_table(language: str, name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == document(language), (
        "run python -m ernie_cli.flags"
    )


def test_the_chinese_document_has_no_english_cells_left() -> None:
    rows = [line for line in document("zh").splitlines() if line.startswith("| `--")]
    assert len(rows) == len(FLAGS)
    for row in rows:
        _, meaning, *defaults = row.split(" | ")[:4]
        assert re.search(r"[\u4e00-\u9fff]", meaning), row
        assert not [default for default in defaults if re.search(r"^[a-z]+ |: [a-z]", default)], row
