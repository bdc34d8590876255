"""What a ``plan`` is asked: the model, the device, and settings as the engine reads them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.devices.backend import BACKENDS, CPU, XPU, planned_xpu
from ernie_backend.devices.backend import DEVICES as SERVE_DEVICES
from ernie_backend.devices.device import GIB, p800
from ernie_backend.errors import StartError
from ernie_backend.planning.engine_plan import engine_plan
from ernie_backend.planning.memory_plan import plan_memory
from ernie_cli.errors import CommandError
from ernie_cli.flags.parameters import engine_parameters
from ernie_cli.flags.parser import parsed_flags
from ernie_cli.flags.plan import DEVICES, PLAN_GROUPS
from ernie_cli.plan.request import plan_request
from ernie_cli.presets.rows import ROWS
from ernie_cli.serve.printed_config import engine_settings
from ernie_kernels.needs import Needs
from support.paths import DATA, DENSE

VL_424B = "ernie-4.5-vl-424b-a47b-wint8-32k-tp8"


def test_larger_pictures_take_more() -> None:
    row = ROWS["ernie-4.5-vl-28b-a3b-thinking-wint8-128k"]
    given = {"--model": row.name}
    with_limit = plan_request(given).settings
    assert with_limit.image_max_pixels == 12845056
    shape = row.model.shape
    larger, usual = (
        plan_memory(shape, settings, p800()).activations
        for settings in (with_limit, plan_request({**given, "--mm-processor-kwargs": "{}"}).settings)
    )
    assert larger - usual == (12845056 - 6177 * 28 * 28) // 14**2 * (3 * 14**2 + 7 * 1280) * 2


@pytest.mark.parametrize("kind", ["cpu", "xpu composed", "xpu fastdeploy"])
@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--gpu-memory-utilization 0.4 --max-num-seqs 3",
        "--max-num-batched-tokens 77 --kv-cache-dtype int8 --quantization wint4",
        "-tp 2 --enable-expert-parallel --block-size 16 --max-model-len 99999",
        "--num-gpu-blocks-override 40 --load-choices dummy --quantization wint8",
        """--max-processor-cache 0.5 --mm-processor-kwargs '{"image_max_pixels": 9000000}'""",
    ],
)
@pytest.mark.parametrize("name", ["dense", "moe_tp", "moe300b-Paddle", "vl_moe"])
def test_plan_and_engine_plan_a_directory_alike(
    monkeypatch: pytest.MonkeyPatch, name: str, flags: str, kind: str
) -> None:
    """A machine that has the device; what the engine refuses there, ``plan`` refuses in its words."""
    device, _, ops = kind.partition(" ")
    monkeypatch.setattr(
        "ernie_backend.devices.xpu_ops.fastdeploy_file", {"fastdeploy": Path}.get(ops, lambda: None)
    )
    monkeypatch.setattr("ernie_cli.plan.request.find_backend", lambda asked: (BACKENDS[device], None))
    monkeypatch.setattr("ernie_cli.plan.request.planned_xpu", lambda: XPU)
    monkeypatch.setattr("ernie_cli.plan.request.available_bytes", lambda: GIB)
    given = parsed_flags(shlex.split(flags), PLAN_GROUPS)
    try:
        settings = engine_settings(DATA / name, {**engine_parameters(given), "device": device})
    except CommandError as error:
        assert ops == "fastdeploy"
        with pytest.raises(StartError, match=f"^{re.escape(error.message)}$"):
            plan_request({**given, "--model": str(DATA / name)})
        return
    request = plan_request({**given, "--model": str(DATA / name)})
    planned = plan_memory(request.shape, request.settings, request.device)
    assert planned == engine_plan(settings, ModelConfig.from_directory(DATA / name), BACKENDS[device], GIB)
    assert request.notices == settings.notices


@pytest.mark.parametrize(
    ("cards", "ops", "device"),
    [(0, "auto", "P800"), (0, "composed", "composed"), (2, "auto", "composed"), (2, "composed", "composed")],
)
def test_a_machine_without_cards_plans_for_one_with_fastdeploys_ops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cards: int, ops: str, device: str
) -> None:
    """One with cards plans for itself; FastDeploy is not installed here."""
    for card in range(cards):
        (tmp_path / f"xpu{card}").touch()
    monkeypatch.setenv("ERNIE_XPU_OPS", ops)
    planned = planned_xpu(device_nodes=tmp_path)
    assert device in planned.planned_device(0, None).name
    assert (planned.why_refused(Needs(16, "bfloat16")) is None) == (device == "composed")


def test_hidden_cards_are_a_notice_of_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ernie_cli.plan.request.find_backend", lambda _: (CPU, "hidden"))
    assert plan_request({"--model": str(DENSE)}).notices == ("hidden",)


def test_a_step_has_the_tokens_of_the_device() -> None:
    name = "ernie-4.5-0.3b-wint8-32k"
    tokens = {
        device: plan_request({"--model": name, "--device": device}).settings.scheduler.max_num_batched_tokens
        for device in ("p800", "cpu")
    }
    assert tokens == {"p800": 2048, "cpu": 256 + 128}


def test_the_devices_of_serve_are_planned_as_what_they_run_on() -> None:
    assert set(SERVE_DEVICES) <= set(DEVICES)
    for device, same in (("xpu", "p800"), ("reference", "cpu")):
        for model in ("ernie-4.5-0.3b-wint8-32k", str(DENSE)):
            given = {"--model": model, "--device-memory": "64"}
            device_plan, same_plan = (plan_request({**given, "--device": each}) for each in (device, same))
            assert device_plan.device == same_plan.device
            assert device_plan.composed == same_plan.composed


def test_ranks_on_cpus_have_the_memory_of_all_machines_of_which_this_need_be_none() -> None:
    given = {"--model": str(DENSE), "--device": "cpu", "--device-memory": "2", "--tensor-parallel-size": "2"}
    assert plan_request(given).device.memory_bytes == 2 * GIB
    assert plan_request({**given, "--ips": "10.0.0.1,10.0.0.2"}).device.memory_bytes == 4 * GIB


def test_a_released_model_in_w4a8_is_planned_with_a_notice() -> None:
    request = plan_request({"--model": "ERNIE-4.5-21B-A3B", "--quantization": "w4a8"})
    assert request.settings.loading.quantization == "w4a8"
    assert "scales of activations" in request.notices[0]


def test_a_row_is_found_in_any_case() -> None:
    assert plan_request({"--model": VL_424B.upper()}) == plan_request({"--model": VL_424B})
    assert plan_request({"--model": VL_424B}).notices == ()


def test_a_context_that_the_model_does_not_have_is_lowered() -> None:
    request = plan_request({"--model": str(DENSE), "--max-model-len": "99999"})
    assert request.settings.loading.max_model_len == 2048
    assert any(re.search("max_model_len 99999 .*2048", notice) for notice in request.notices)


def test_a_format_of_the_checkpoint_wins(tmp_path: Path) -> None:
    text = json.loads((DENSE / "config.json").read_text())
    text["quantization_config"] = {"quantization": "wint8"}
    (tmp_path / "config.json").write_text(json.dumps(text))
    request = plan_request({"--model": str(tmp_path), "--quantization": "wint4"})
    assert plan_memory(request.shape, request.settings, request.device).settings.loading.quantization == "wint8"
    assert re.search("quantization wint4 .*wint8", request.notices[0])
