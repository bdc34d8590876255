"""What serving on Kunlunxin cards needs, on hosts made of files and text."""

from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.devices.backend import CPU, REFERENCE, XPU, find_backend
from ernie_backend.devices.device import p800
from ernie_backend.devices.kunlunxin import UNCHECKED, Card, XpuHost, check_xpu_host, problems, read_xpu_host
from ernie_backend.errors import StartError
from ernie_backend.parallel.layout import read_layout
from ernie_backend.parallel.worker import Worker
from ernie_backend.planning.engine_plan import check_fits, engine_plan
from ernie_backend.request.step_plan import SchedulePlan
from ernie_backend.runner.model_runner import ModelRunner
from ernie_backend.settings.engine_settings import EngineSettings
from ernie_kernels.sampling import HeadOutput, TokenChoices
from support.paths import DATA

QUERY = "Driver Version : 5.0.21.26\nXPU-RT Version : N/A\nFirmware Version : 1.48\n"
GIB = 1 << 30
DENSE = DATA / "dense"


def table(cards: int, used_mib: int = 0) -> str:
    row = "0000:{0:02d}:00.0 {0} " + " ".join(f"c{each}" for each in range(2, 17)) + " {1} 98304 0 x y"
    return "\n".join(row.format(card, used_mib) for card in range(cards))


def machine(
    root: Path,
    cards: int = 8,
    *,
    control: bool = True,
    query: str = QUERY,
    used_mib: int = 0,
    **environment: str,
) -> XpuHost:
    (root / "dev").mkdir()
    for card in range(cards):
        (root / "dev" / f"xpu{card}").touch()
    if control:
        (root / "dev" / "xpuctrl").touch()
    outputs = {"-q": query, "-m": table(cards, used_mib)}

    def installed(name: str) -> str:
        if name == "paddlepaddle-xpu":
            return "3.3.0"
        raise metadata.PackageNotFoundError(name)

    return read_xpu_host(root, environment, lambda command: outputs[command[1]], installed)


def names(host: XpuHost, ranks: int = 1) -> list[str]:
    return [each.name for each in problems(host, ranks)]


def test_a_host_as_documented_has_no_problem(tmp_path: Path) -> None:
    host = machine(tmp_path)
    assert (host.num_nodes, host.driver, host.firmware) == (8, "5.0.21.26", "1.48")
    assert [names(host, ranks) for ranks in (1, 2, 4, 8)] == [[], [], [], []]


def test_free_memory_is_that_of_the_fullest_card_taken(tmp_path: Path) -> None:
    host = machine(tmp_path, used_mib=1024)
    assert host.free_bytes(4) == 95 * GIB
    assert XpuHost(num_nodes=1, cards={}).free_bytes(1) is None


@pytest.mark.parametrize(
    ("visible", "shown", "expected"),
    [
        (None, 8, 94),
        ("4,6", 8, 90),  # the machine's number of the second card is 6
        ("4,6", 0, None),  # Paddle may answer for card 1
        (None, 0, 1),
        ("0,1", 0, 1),
    ],
)
def test_after_loading_the_same_card_is_asked_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, shown: int, expected: int | None
) -> None:
    """By the number that the machine has for it, which Paddle need not know."""
    host = machine(tmp_path)
    cards = {each: Card({1: 2, 6: 6}.get(each, 0) * GIB, 96 * GIB) for each in range(shown)}
    monkeypatch.setattr(
        "ernie_backend.devices.xpu_ops.read_xpu_host", lambda: replace(host, visible=visible, cards=cards)
    )
    ops: Any = SimpleNamespace(card=1, free_bytes=lambda: GIB)
    assert XPU.card_free_bytes(ops) == (None if expected is None else expected * GIB)


def test_cards_without_room_refuse_the_start_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what xpu-smi shows as free, not by what a card has; it is asked once."""
    hosts = iter([machine(tmp_path, used_mib=98304 - 1024)])
    monkeypatch.setattr("ernie_backend.devices.backend.read_xpu_host", lambda: next(hosts))
    settings = EngineSettings(DENSE).replaced(max_model_len=64, dtype="bfloat16")
    report = XPU.check_host(1)
    with pytest.raises(StartError, match=r"memory needed: .*weights .*had: .* of 1\.00 GiB\); "):
        check_fits(engine_plan(settings, ModelConfig.from_directory(DENSE), XPU, 0, report.card_bytes))


@pytest.mark.parametrize("free_mib", [None, 900])
def test_a_profile_step_decides_what_is_left_for_the_cache(
    free_mib: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest there may be, after loading; without an answer of the card, the plan does."""
    steps: list[SchedulePlan] = []
    run = ModelRunner.run

    def noted(runner: ModelRunner, step: SchedulePlan, choices: TokenChoices | None = None) -> HeadOutput:
        steps.append(step)
        return run(runner, step, choices)

    monkeypatch.setattr(ModelRunner, "run", noted)
    backend = replace(
        REFERENCE,
        planned_device=lambda _, card_bytes: p800(card_bytes),
        card_free_bytes=lambda _: None if free_mib is None else free_mib << 20,
    )
    settings = EngineSettings(DENSE).replaced(
        max_model_len=48, dtype="bfloat16", max_num_seqs=3, max_num_batched_tokens=40, block_size=16
    )
    plan = engine_plan(settings, ModelConfig.from_directory(DENSE), backend, 0, 4 * GIB)
    worker = Worker.load(settings, ModelConfig.from_directory(DENSE), backend, read_layout(settings.parallel))
    seen: list[int] = []

    def counted(_: EngineSettings, __: int, budget: int) -> int:
        seen.append(budget)
        return 1

    monkeypatch.setattr("ernie_backend.parallel.worker.kv_blocks", counted)
    worker.affordable_blocks(settings, plan, 0)
    if free_mib is None:
        assert steps == []
        assert seen == [plan.budget - plan.fixed]
        return
    (step,) = steps
    assert [len(chunk.token_ids) for chunk in step.chunks] == [38, 1, 1]
    assert [chunk.start for chunk in step.chunks] == [10, 47, 47]
    assert {chunk.block_table for chunk in step.chunks} == {(0, 1, 2)}
    assert seen == [plan.budget - (plan.memory - (free_mib << 20)) - plan.media]


def test_a_profile_step_that_does_not_fit_is_one_line_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> HeadOutput:
        raise MemoryError("(ResourceExhausted) Out of memory error on XPU 0.")

    monkeypatch.setattr(ModelRunner, "run", full)
    backend = replace(
        REFERENCE, planned_device=lambda _, card_bytes: p800(card_bytes), card_free_bytes=lambda _: GIB
    )
    settings = EngineSettings(DENSE).replaced(
        max_model_len=48, dtype="bfloat16", max_num_seqs=3, max_num_batched_tokens=40
    )
    config = ModelConfig.from_directory(DENSE)
    plan = engine_plan(settings, config, backend, 0, 4 * GIB)
    worker = Worker.load(settings, config, backend, read_layout(settings.parallel))
    with pytest.raises(StartError, match=r"max_num_batched_tokens 40 and max_num_seqs 3 .*lower them, or "):
        worker.affordable_blocks(settings, plan, 0)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        (QUERY.replace("5.0.21.26", "5.0.21.9"), "driver"),
        (QUERY.replace("5.0.21.26", "4.37.1.0"), "driver"),
        (QUERY.replace("1.48", "1.9"), "firmware"),
    ],
)
def test_versions_are_compared_as_numbers(tmp_path: Path, query: str, problem: str) -> None:
    assert names(machine(tmp_path, query=query)) == [problem]


def test_what_xpu_smi_does_not_show_counts_as_met(tmp_path: Path) -> None:
    host = machine(tmp_path, query="no such option\n")
    assert host.driver is None
    assert names(host) == []


def test_the_control_device_is_needed(tmp_path: Path) -> None:
    (problem,) = problems(machine(tmp_path, control=False), 1)
    assert "/dev/xpuctrl" in problem.found


@pytest.mark.parametrize(
    ("mark", "text", "kubernetes", "expected"),
    [
        (".dockerenv", "", "", True),
        ("run/.containerenv", "", "", True),
        ("proc/self/cgroup", "0::/kubepods/besteffort/pod1/2\n", "", True),
        ("proc/self/cgroup", "0::/\n", "10.0.0.1", True),
        ("proc/self/cgroup", "0::/user.slice/user-1000.slice/session-1.scope\n", "", False),
    ],
)
def test_a_missing_device_is_passed_into_a_container_and_comes_with_the_driver_of_a_host(
    tmp_path: Path, mark: str, text: str, kubernetes: str, expected: bool
) -> None:
    (tmp_path / mark).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / mark).write_text(text)
    host = machine(tmp_path, 0, control=False, KUBERNETES_SERVICE_HOST=kubernetes)
    assert host.is_container == expected
    cards, control, *_ = problems(host, 1)
    for problem in (cards, control):
        assert ("docker run --device /dev/xpuctrl" in problem.fix) == expected
        assert ("driver" in problem.fix) != expected


def test_what_a_host_lacks_is_laid_out_for_a_terminal() -> None:
    host = XpuHost(paddles={"paddlepaddle-xpu": "3.3.0"})
    with pytest.raises(StartError) as raised:
        check_xpu_host(host, 1, {})
    assert "\n" not in raised.value.message  # it goes through logs, and Triton
    first, *rows, last = raised.value.layout.splitlines()
    assert first.startswith("this machine lacks")
    assert rows == [
        line for each in problems(host, 1) for line in (f"  {each.name}: {each.found}", f"    fix: {each.fix}")
    ]
    assert UNCHECKED in last


@pytest.mark.parametrize(
    ("visible", "ranks", "problem"),
    [
        ("0,1,2,3", 4, None),
        ("7,6,5,4", 4, None),
        ("0,1,4,5", 4, "cards"),
        ("2,3,4,5,6,7", 4, "cards"),
        ("2,3", 2, None),
        ("0,1", 4, "cards"),
        ("8", 1, "XPU_VISIBLE_DEVICES"),
    ],
)
def test_which_cards_ranks_may_take(tmp_path: Path, visible: str, ranks: int, problem: str | None) -> None:
    host = machine(tmp_path, XPU_VISIBLE_DEVICES=visible)
    assert names(host, ranks) == ([] if problem is None else [problem])


def test_the_error_about_four_cards_names_both_sets(tmp_path: Path) -> None:
    host = machine(tmp_path, XPU_VISIBLE_DEVICES="0,1,4,5")
    with pytest.raises(StartError, match=r"0,1,2,3 or 4,5,6,7.*ERNIE_XPU_UNCHECKED"):
        check_xpu_host(host, 4, {})
    (notice,) = check_xpu_host(host, 4, {UNCHECKED: "1"})
    assert "0,1,2,3" in notice


@pytest.mark.parametrize("visible", ["a", "0,,1", "0,0", "-1", "0;1"])
def test_a_wrong_choice_of_cards_is_an_error(tmp_path: Path, visible: str) -> None:
    host = machine(tmp_path, XPU_VISIBLE_DEVICES=visible)
    with pytest.raises(StartError, match="XPU_VISIBLE_DEVICES"):
        check_xpu_host(host, 1, {})


@pytest.mark.parametrize(
    ("paddles", "python", "word"),
    [
        ({"paddlepaddle": "3.3.0", "paddlepaddle-xpu": "3.3.0"}, (3, 10), "uninstall paddlepaddle,"),
        ({"paddlepaddle": "3.3.0"}, (3, 10), "uninstall paddlepaddle, then install paddlepaddle-xpu"),
        ({}, (3, 10), "docs/xpu.md"),
    ],
)
def test_exactly_one_paddle(paddles: dict[str, str], python: tuple[int, int], word: str) -> None:
    host = XpuHost(num_nodes=1, has_control=True, paddles=paddles, python=python)
    (problem,) = problems(host, 1)
    assert word in problem.fix


def test_a_host_without_anything_has_all_the_problems_at_once() -> None:
    found = {each.name: each for each in problems(XpuHost(driver="4.0", firmware="1.0", python=(3, 12)), 4)}
    assert set(found) == {"cards", "control device", "driver", "firmware", "Paddle", "Python"}
    assert "3.12" in found["Python"].found
    assert "python3.10" in found["Python"].fix


@pytest.mark.parametrize(
    ("cards", "environment", "backend", "has_notice"),
    [
        (0, {}, CPU, False),
        (0, {"XPU_VISIBLE_DEVICES": "0"}, CPU, True),
        (2, {}, XPU, False),
        (2, {"XPU_VISIBLE_DEVICES": "1"}, XPU, False),
        (2, {"XPU_VISIBLE_DEVICES": ""}, CPU, True),
    ],
)
def test_auto_takes_the_cards_unless_none_may_be_used(
    tmp_path: Path, cards: int, environment: dict[str, str], backend: object, has_notice: bool
) -> None:
    for card in range(cards):
        (tmp_path / f"xpu{card}").touch()
    (tmp_path / "xpuctrl").touch()
    found, notice = find_backend("auto", environment, tmp_path)
    assert (found, notice is not None) == (backend, has_notice)
    assert ("hides this machine's XPUs" in (notice or "")) == (cards > 0 and has_notice)
