"""The command ``doctor``: its report, its exit status, its bundle."""

import json
import re
import socket
import zipfile
from pathlib import Path

import pytest

from ernie_backend.devices.backend import CPU
from ernie_backend.devices.kunlunxin import Card, XpuHost
from ernie_cli.doctor.bundle import redacted, shown_environment
from ernie_cli.doctor.command import doctor
from ernie_cli.doctor.finding import Verdict
from ernie_cli.doctor.selfcheck import check_device, compared_rates
from ernie_cli.doctor.xpu_checks import check_operators, check_xpu
from ernie_frontend.arguments import UsageError
from support.free_ports import free_port
from support.paths import REPOSITORY

EMBEDDED = REPOSITORY / "ernie-tiny" / "weights"


@pytest.fixture(autouse=True)
def _tritonserver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every environment of the unit tests has the bundled one."""
    monkeypatch.setattr("ernie_cli.doctor.host_checks.find_installed_server", lambda: Path("/opt/tritonserver"))


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    status = doctor(["--json", "--host", "127.0.0.1", *arguments])
    return status, {each["name"]: each for each in json.loads(capsys.readouterr().out)}


def test_a_machine_that_can_serve(capsys: pytest.CaptureFixture[str]) -> None:
    status, findings = report(capsys, "--port", str(free_port()), "--model", str(EMBEDDED))
    assert status == 0
    assert {"processor", "memory", "shared memory", "limits", "port", "Python", "tritonserver", "model"} <= set(
        findings
    )
    assert "can be loaded" in findings["model"]["found"]
    assert all(each["fix"] for each in findings.values() if each["verdict"] != "ok")


def test_what_prevents_serving_has_a_fix(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, findings = report(
            capsys, "--port", str(taken.getsockname()[1]), "--model", str(tmp_path / "none")
        )
    assert status == 1
    assert findings["port"]["verdict"] == findings["model"]["verdict"] == "fail"
    assert "--port" in findings["port"]["fix"]


def test_each_finding_is_a_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    doctor(["--host", "127.0.0.1", "--port", str(free_port())])
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok  ", "warn", "fail", "      fix: ")) for line in lines)


def test_the_bundle_has_no_names_and_no_secrets(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FD_API_KEY", "sk-hidden")
    bundle = tmp_path / "report.zip"
    report(capsys, "--port", str(free_port()), "--bundle", str(bundle), "--model", str(EMBEDDED))
    with zipfile.ZipFile(bundle) as archive:
        contents = {name: archive.read(name).decode() for name in archive.namelist()}
    assert {"findings.json", "packages.txt", "environment.txt", "config.json"} <= set(contents)
    assert not any("sk-hidden" in text for text in contents.values())
    assert "FD_API_KEY=(set)" in contents["environment.txt"]
    assert bundle.stat().st_mode & 0o077 == 0


def test_what_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setattr("socket.gethostname", lambda: "node-17")
    assert (
        redacted("/home/somebody/models on node-17, http://me:pw@hub/x")
        == "~/models on (host), http://(redacted)@hub/x"
    )
    assert shown_environment({"HF_TOKEN": "x", "SHELL": "y", "XPU_VISIBLE_DEVICES": "0"}) == [
        "HF_TOKEN=(set)",
        "XPU_VISIBLE_DEVICES=0",
    ]


def test_cards_are_shown_with_their_memory() -> None:
    busy, free = Card(50 << 30, 96 << 30), Card(0, 96 << 30)
    paddle = {"paddlepaddle-xpu": "3.3.0"}
    host = XpuHost(
        2, visible="0,1", has_control=True, cards={0: busy, 1: free}, driver="5.0.21.26", paddles=paddle
    )
    verdicts = {each.name: each.verdict for each in check_xpu(host, 1)}
    assert verdicts == {
        "XPU control device": Verdict.OK,
        "XPU driver": Verdict.OK,
        "XPU firmware": Verdict.WARN,
        "XPU Paddle": Verdict.OK,
        "XPU Python": Verdict.OK,
        "XPU cards": Verdict.OK,
        "XPU card 0": Verdict.WARN,
        "XPU card 1": Verdict.OK,
    }


def test_a_host_without_cards_reports_each_requirement_and_skips_the_self_check(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ernie_cli.doctor.command.read_xpu_host", lambda: XpuHost(python=(3, 11)))
    status, findings = report(capsys, "--port", str(free_port()), "--device", "xpu", "--selfcheck")
    verdicts = {name.removeprefix("XPU "): each["verdict"] for name, each in findings.items() if "XPU" in name}
    assert status == 1
    assert verdicts == {
        "cards": "fail",
        "control device": "fail",
        "driver": "warn",
        "firmware": "warn",
        "Paddle": "fail",
        "Python": "fail",
        "operators": "warn",
    }
    assert findings["self-check"]["verdict"] == "warn"
    assert "skipped" in findings["self-check"]["found"]


@pytest.mark.parametrize(
    ("choice", "verdict", "found", "fix"),
    [
        ("", "warn", "not installed in this Python.*the slow fallback", "requirements-xpu.txt"),
        ("composed", "warn", "ERNIE_XPU_OPS is composed.*the slow fallback", "unset ERNIE_XPU_OPS"),
        ("fastdeploy", "fail", "not installed in this Python", "unset ERNIE_XPU_OPS"),
        ("gpu", "fail", "choose auto, fastdeploy or composed", "unset ERNIE_XPU_OPS"),
    ],
)
def test_which_operators_compute_is_a_line(
    monkeypatch: pytest.MonkeyPatch, choice: str, verdict: str, found: str, fix: str
) -> None:
    monkeypatch.setenv("ERNIE_XPU_OPS", choice)
    finding = check_operators()
    assert finding.verdict.value == verdict
    assert re.search(found, finding.found)
    assert fix in finding.fix


def test_hidden_cards_are_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = "XPU_VISIBLE_DEVICES is empty"
    monkeypatch.setattr("ernie_cli.doctor.command.find_backend", lambda _: (CPU, hidden))
    device = report(capsys, "--port", str(free_port()))[1]["device"]
    assert (device["verdict"], device["found"]) == ("warn", hidden)


def test_a_wrong_choice_of_cards_hides_no_other_problem() -> None:
    failed = {each.name for each in check_xpu(XpuHost(2, visible="a"), 1) if each.verdict is Verdict.FAIL}
    assert failed == {"XPU XPU_VISIBLE_DEVICES", "XPU control device", "XPU Paddle"}


def test_a_device_that_cannot_be_used_is_a_sentence_with_its_fix() -> None:
    (finding, *_) = check_device("xpu")  # no environment of the tests has a card
    assert finding.name == "self-check"
    assert finding.found.startswith("device xpu cannot be used: ")
    assert "docs/xpu.md" in finding.fix


def test_what_full_float32_products_cost_is_a_line() -> None:
    plain = {"rate, bf16 product": 300.0, "rate, tokens of 1 request": 50.0}
    (finding,) = compared_rates(plain, {"rate, bf16 product": 100.0, "rate, tokens of 1 request": 40.0})
    assert finding.name == "XPU_PADDLE_FC_FLOAT"
    assert finding.found.endswith("bf16 product: 3.0 times; tokens of 1 request: 1.2 times")
    assert list(compared_rates(plain, {})) == []


@pytest.mark.parametrize(("path", "word"), [("none/x.zip", "no directory"), ("", "must be a file")])
def test_where_the_bundle_cannot_be_is_said_before_the_checks(tmp_path: Path, path: str, word: str) -> None:
    with pytest.raises(UsageError, match=f"--bundle .*{word}"):
        doctor(["--bundle", str(tmp_path / path)])


def test_the_self_check_passes_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    status, findings = report(capsys, "--port", str(free_port()), "--device", "cpu", "--selfcheck")
    assert status == 0, findings
    lines = ("embed and lm_head", "moe w4a8", "model 21B-A3B wint4", "rate, bf16 product", "probe, router")
    assert set(lines) <= set(findings)
