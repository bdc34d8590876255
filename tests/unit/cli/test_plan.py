"""``ernie-triton plan``: the rows of FastDeploy's table word for word, directories, misfits, JSON."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from ernie_backend.devices.device import GIB, cpu, p800
from ernie_backend.planning.memory_plan import plan_memory
from ernie_backend.planning.suggestions import suggest_changes
from ernie_cli import main as command_line
from ernie_cli.flags.parser import parsed_flags, read_flags
from ernie_cli.flags.plan import MEDIA, PLAN_GROUPS, SHOWN
from ernie_cli.plan.report import Planned, lines
from ernie_cli.plan.request import plan_request
from ernie_cli.presets.released import RELEASED
from ernie_cli.presets.rows import ROWS, Row
from ernie_frontend.arguments import UsageError
from support.checkpoints.planned_models import plan_settings
from support.paths import DATA

DENSE, EXPERTS = DATA / "dense", DATA / "moe"
VL_424B = "ernie-4.5-vl-424b-a47b-wint8-32k-tp8"


class RunPlan:
    """Runs the command as the console script does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Return the exit status and what was printed."""
        self._monkeypatch.setattr("sys.argv", ["ernie-triton", "plan", *arguments])
        self._monkeypatch.setenv("COLUMNS", "1000")
        with pytest.raises(SystemExit) as raised:
            command_line.main()
        output, errors = self._capsys.readouterr()
        assert isinstance(raised.value.code, int)
        return raised.value.code, output + errors


@pytest.fixture
def run_plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunPlan:
    return RunPlan(monkeypatch, capsys)


class TableRow(NamedTuple):
    """One row of FastDeploy's table of models for the P800."""

    model: str
    length: str
    quantization: str
    cards: str
    command: str

    @property
    def arguments(self) -> list[str]:
        """What follows the server's module in the command, as a shell would read it."""
        lines = re.sub(r"\\ *<br>", " ", self.command).split("<br>")
        (command,) = (line for line in lines if line.startswith("python -m"))
        return shlex.split(command)[3:]

    @property
    def flags(self) -> dict[str, str]:
        return parsed_flags(self.arguments, PLAN_GROUPS)


TABLE = [
    TableRow(*line.strip("|").split("|")[:5])
    for line in (DATA / "fastdeploy/p800_table.md").read_text(encoding="utf-8").splitlines()
]
PAIRS = list(zip(TABLE, ROWS.values(), strict=True))
NAMES = list(ROWS)
OTHERS = {"--limit-mm-per-prompt", "--reasoning-parser", "--tool-call-parser"}


@pytest.mark.parametrize(("documented", "preset"), PAIRS, ids=NAMES)
def test_a_row_is_that_of_the_table(documented: TableRow, preset: Row) -> None:
    flags = documented.flags
    assert flags.pop("--model") == preset.hub_id
    assert {name: value for name, value in flags.items() if name in SHOWN} == preset.options
    assert {name: flags[name] for name in flags.keys() & OTHERS} == preset.others
    assert documented.cards.split()[0] == str(preset.cards) == flags.get("--tensor-parallel-size", "1")
    assert documented.quantization.lower() in preset.name
    assert documented.model.lower().startswith(preset.model.name.lower())


@pytest.mark.parametrize(("documented", "preset"), PAIRS, ids=NAMES)
def test_a_documented_command_fits_a_p800(documented: TableRow, preset: Row, run_plan: RunPlan) -> None:
    status, shown = run_plan(*documented.arguments, "--json")
    plan = json.loads(shown)
    assert status == 0
    assert plan["fits"]
    assert plan["device"] == "P800"
    assert plan["memory"] == 96 * GIB
    assert "device memory" in plan["assumed"]
    assert plan["sequences"] == 1 + plan["more_sequences"]
    assert plan["tokens"] > plan["more_tokens"]
    by_name, shown_by_name = run_plan("--model", preset.name, "--json")
    assert (by_name, json.loads(shown_by_name)) == (0, plan)


def test_the_model_may_stand_without_its_flag(run_plan: RunPlan) -> None:
    assert run_plan("--json", NAMES[0], "--max-num-seqs", "2") == run_plan(
        "--json", "--model", NAMES[0], "--max-num-seqs", "2"
    )


def test_vl_424b_does_not_fit_64_gib(run_plan: RunPlan) -> None:
    (documented,) = (row for row in TABLE if "424B" in row.model)
    status, shown = run_plan(*documented.arguments, "--device-memory", "64")
    assert status == 1
    assert "64.00" in shown
    assert "It does not fit: " in shown
    misfit = shown[shown.index("It does not fit") :].splitlines()
    assert misfit[1] == "  --gpu-memory-utilization 0.88"
    assert misfit[2] == "  --quantization wint4"
    assert len([line for line in misfit if line.startswith("  ")]) == 2
    assert any("3584 and 1536" in line for line in misfit)


GIGABYTES = {  # bfloat16, wint8, wint4 with a bfloat16 output head
    "ERNIE-4.5-0.3B": (0.72, 0.47, 0.47),
    "ERNIE-4.5-21B-A3B": (43.7, 22.1, 11.9),
    "ERNIE-4.5-300B-A47B": (599, 301, 157),
    "ERNIE-4.5-VL-28B-A3B": (58.8, 30.4, 16.8),
    "ERNIE-4.5-VL-424B-A47B": (847, 426, 221),
    "PaddleOCR-VL": (1.81, 1.56, 1.56),
    "PaddleOCR-VL-1.6": (1.81, 1.56, 1.56),
}
KV_BYTES = {"0.3B": 18432, "PaddleOCR": 18432, "21B": 57344, "28B": 57344, "300B": 221184, "424B": 221184}


@pytest.mark.parametrize("name", GIGABYTES)
def test_the_released_models_have_their_published_sizes(name: str) -> None:
    for quantization, gigabytes in zip((None, "wint8", "wint4"), GIGABYTES[name], strict=True):
        plan = plan_memory(RELEASED[name].shape, plan_settings(quantization=quantization), p800())
        assert sum(plan.weights.values()) / 1e9 == pytest.approx(gigabytes, rel=0.01)
        (per_token,) = (size for part, size in KV_BYTES.items() if part in name)
        assert plan.bytes_per_token == per_token


def test_the_static_scales_of_w4a8c8_halve_the_kv_cache() -> None:
    plan = plan_memory(RELEASED["ERNIE-4.5-300B-A47B-W4A8C8-TP4"].shape, plan_settings(), p800())
    assert plan.bytes_per_token == 110592
    assert plan.settings.loading.quantization == "w4a8"
    assert sum(plan.weights.values()) / 1e9 == pytest.approx(157, rel=0.01)


def test_a_cpu_keeps_the_output_head_in_int8() -> None:
    shape = RELEASED["ERNIE-4.5-0.3B"].shape
    plan = plan_memory(shape, plan_settings(quantization="wint8"), cpu(GIB))
    assert sum(plan.weights.values()) / 1e9 == pytest.approx(0.363, rel=0.01)


def test_a_directory_is_planned_for_what_is_found_here(run_plan: RunPlan) -> None:
    status, shown = run_plan("--model", str(DENSE), "--max-num-seqs", "3", "--quantization", "wint4")
    assert status == 0
    assert "dense, wint8, 1 x CPU" in shown
    assert "Notice: quantization wint4" in shown
    assert "(assumed)" not in shown
    assert "for 3 (max_num_seqs)" in shown


def test_flags_win_over_those_of_a_row(run_plan: RunPlan) -> None:
    status, shown = run_plan(
        "--model", "ernie-4.5-300b-a47b-wint4-32k-tp4", "-tp", "8", "--max_num_seqs=4", "--json"
    )
    plan = json.loads(shown)
    assert status == 0
    assert plan["settings"]["tensor_parallel_size"] == plan["devices"] == 8
    assert plan["settings"]["quantization"] == "wint4"
    assert plan["settings"]["max_num_seqs"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--max-num-seqs 8", "--model"),
        ("--model nobody/knows", "nobody/knows"),
        ("--model Ernie-4.5-21b-a3b-wint4", "ernie-4.5-21b-a3b-wint4-32k"),
        ("--model baidu/ERNIE-4.5-21B-A3", "ERNIE-4.5-21B-A3B"),
        (f"--model {DENSE} -tp 3", "tensor_parallel_size is 3"),
        (f"--model {DENSE} --device h100", "h100"),
        (f"--model {DENSE} --quantization fp8", "fp8"),
        (f"--model {DENSE} --device-memory 0", "--device-memory"),
        (f"--model {DENSE} --device-memory 1e308", "--device-memory"),
        (f"--model {DENSE} --maxlen 3", "--max-model-len"),
        (f"--model {EXPERTS} --quantization w4a8", "scales"),
        (f"--model {EXPERTS} --device xpu --block-size 16", "block_size is 16; leave it out"),
        (f"--model {NAMES[0]} --enable-expert-parallel", "leave --enable-expert-parallel out"),
        (f"--model {NAMES[0]} --kv-cache-dtype int8", "static scales only"),
        (f'--model {VL_424B} {MEDIA} \'{{"image_max_pixels": "x"}}\'', "'x'"),
        (f"--model {VL_424B} {MEDIA} '{{\"image_max_pixels\": true}}'", "True"),
    ],
)
def test_what_is_no_plan_ends_with_status_2_and_a_line(run_plan: RunPlan, arguments: str, message: str) -> None:
    status, shown = run_plan(*shlex.split(arguments))
    assert status == 2
    assert shown.startswith("ernie-triton plan: ")
    assert message in shown
    assert len(shown) < 300


def test_a_broken_config_is_no_plan(run_plan: RunPlan, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    status, shown = run_plan("--model", str(tmp_path))
    assert status == 2
    assert "config.json" in shown


def test_a_model_in_parts_is_planned_for_as_many_ranks(run_plan: RunPlan) -> None:
    status, shown = run_plan("--model", "ernie-4.5-300b-a47b-w4a8-32k-tp4", "-tp", "2")
    assert status == 2
    assert "4 ranks (rank0 to rank3)" in shown


def test_room_is_told_next_to_the_one_sequence(run_plan: RunPlan) -> None:
    shown = run_plan("--model", str(DENSE), "--num-gpu-blocks-override", "101", "--device-memory", "3")[1]
    assert re.search("2,048 tokens .*4,416 tokens .* 2 ", shown)


def test_a_suggestion_can_be_pasted() -> None:
    row = "ernie-4.5-vl-28b-a3b-thinking-wint8-128k"
    for device_memory in (24, 32, 40, 48):
        given = {"--model": row, "--device-memory": str(device_memory)}
        request = plan_request(given)
        plan = plan_memory(request.shape, request.settings, request.device)
        shown = lines(Planned(request, plan, suggest_changes(plan)), 80)
        proposals = [line for line in shown if line.startswith("  --")]
        assert bool(proposals) != plan.fits
        for proposal in proposals:
            again = plan_request({**given, **parsed_flags(shlex.split(proposal), PLAN_GROUPS)})
            assert plan_memory(again.shape, again.settings, again.device).fits


def test_sentences_are_wrapped_at_the_width_of_the_terminal() -> None:
    request = plan_request({"--model": VL_424B, "--device-memory": "64"})
    plan = plan_memory(request.shape, request.settings, request.device)
    answer = Planned(request, plan, suggest_changes(plan), plan)
    shown = lines(answer, 72)
    assert max(map(len, shown)) <= 72
    assert " ".join(" ".join(shown).split()) == " ".join(" ".join(lines(answer, 1000)).split())


@pytest.mark.parametrize("name", NAMES)
def test_a_row_comes_with_its_command(name: str, run_plan: RunPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERNIE_XPU_OPS", "composed")  # which take --enable-expert-parallel
    switches = ["--enable-expert-parallel", "--no-enable-prefix-caching"]
    shown = run_plan(name, "--max-num-seqs", "2", *switches, "--device", "xpu", "--api-key", "secret-1")[1]
    text = shown[shown.index("  ernie-triton serve ") :]
    command = shlex.split(text.replace("\\\n", ""))
    row = ROWS[name]
    changed = {
        "--max-num-seqs": "2",
        "--enable-expert-parallel": "true",
        "--enable-prefix-caching": "false",
        "--device": "xpu",
    }
    assert command[:2] == ["ernie-triton", "serve"]
    assert read_flags(command[2:]) == {"--model": row.hub_id, **row.options, **row.others, **changed}
    assert max(map(len, text.splitlines())) <= 80


def test_a_directory_comes_without_a_command(run_plan: RunPlan) -> None:
    assert "ernie-triton serve" not in run_plan("--model", str(DENSE))[1]


def test_serve_says_which_model_belongs_to_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"is a row .*--model PaddlePaddle/ERNIE-4\.5-VL-424B-A47B-Paddle"):
        command_line.run(["serve", VL_424B])


def test_little_memory_is_told_in_mib(run_plan: RunPlan) -> None:
    shown = run_plan("--model", str(DENSE))[1]
    assert re.search(r"^  runtime +128.0 MiB$", shown, re.MULTILINE)


def test_what_is_assumed_is_in_the_json_too(run_plan: RunPlan) -> None:
    for more, assumed in ([], ["device memory", "runtime"]), (["--device-memory", "80"], ["runtime"]):
        shown = run_plan("--model", "ernie-4.5-0.3b-wint8-32k", "--json", *more)[1]
        assert json.loads(shown)["assumed"] == assumed


@pytest.mark.parametrize(("language", "heading"), [("en_US.UTF-8", "Memory:"), ("zh_CN.UTF-8", "内存:")])
def test_help_lists_what_decides_memory(
    run_plan: RunPlan, monkeypatch: pytest.MonkeyPatch, language: str, heading: str
) -> None:
    monkeypatch.setenv("LC_ALL", language)
    status, shown = run_plan("--help")
    assert status == 0
    assert heading in shown
    for name in (*SHOWN, "--device-memory", "--json"):
        assert re.search(rf"^  {name}\b", shown, re.MULTILINE)
    assert "--reasoning-parser" not in shown
    assert not re.search("no effect|无作用", shown)


@pytest.mark.parametrize("name", ROWS)
def test_the_document_has_the_figures_of_each_row(name: str) -> None:
    request = plan_request({"--model": name})
    plan = plan_memory(request.shape, request.settings, request.device)
    sizes = [f"{size / GIB:.1f}" for size in (sum(plan.weights.values()), plan.needed, plan.budget)]
    room = [f"{plan.num_tokens:,}", str(plan.num_sequences)]
    row = " | ".join([f"`{name}`", str(plan.settings.parallel.tensor_parallel_size), *sizes, *room])
    assert f"| {row} |" in (DATA.parents[1] / "docs/plan.md").read_text().splitlines()


def test_what_the_composed_ops_need_is_told(run_plan: RunPlan) -> None:
    name = "ernie-4.5-300b-a47b-wint4-32k-tp4"
    assert "the slow fallback" in run_plan("--model", name)[1]
    plan = json.loads(run_plan("--model", name, "--json")[1])
    codes = 0.99 * plan["weights"]["routed experts"]  # the rest are scales, which take no more
    assert plan["composed_ops"]["needed"] > plan["needed"] + codes
    assert "With ops composed" in run_plan("--model", str(DENSE), "--device", "p800")[1]
    assert "With ops composed" not in run_plan("--model", str(DENSE), "--device", "cpu")[1]


def test_composed_ops_take_what_those_of_fastdeploy_lack(
    run_plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERNIE_XPU_OPS", "composed")
    flags = ("-tp", "2", "--enable-expert-parallel", "--kv-cache-dtype", "int8", "--block-size", "16", "--json")
    status, shown = run_plan("--model", "ERNIE-4.5-21B-A3B", *flags)
    plan = json.loads(shown)
    assert status == 0
    assert "slow fallback" in plan["device"]
    assert plan["composed_ops"] is None
    assert plan["kv_cache_per_token"] == 28 * 2 * 2 * (128 + 4)
