"""Need and have, after a SIGKILL, from cgroup files of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from ernie_cli.serve.oom_report import OomReport

GIB = 1 << 30


def write(root: Path, files: dict[str, str], group: str = "/") -> None:
    files = {"proc/self/cgroup": f"4:memory:{group}\n0::{group}\n", **files}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("counter", "limit"),
    [
        ("sys/fs/cgroup/memory.events", "sys/fs/cgroup/memory.max"),
        ("sys/fs/cgroup/memory/memory.oom_control", "sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ],
)
def test_a_container_whose_oom_killer_struck(counter: str, limit: str, tmp_path: Path) -> None:
    write(
        tmp_path,
        {"proc/meminfo": "MemTotal: 67108864 kB\n", counter: "oom 1\noom_kill 2\n", limit: f"{24 * GIB}\n"},
    )
    report = OomReport(tmp_path)
    write(tmp_path, {counter: "oom 2\noom_kill 3\n"})
    told = report.on_kill(41 * GIB)
    assert "needed: 41.00 GiB" in told
    assert "had: 24.00 GiB" in told
    assert "struck 1 " in told


def test_the_limit_of_a_group_around_the_own_one(tmp_path: Path) -> None:
    own = "sys/fs/cgroup/system.slice/triton.service"
    files = {
        "proc/meminfo": "MemTotal: 67108864 kB\n",
        f"{own}/memory.max": "max\n",
        f"{own}/memory.events": "oom_kill 2\n",
        "sys/fs/cgroup/system.slice/memory.max": f"{24 * GIB}\n",
        "sys/fs/cgroup/system.slice/memory.events": "oom_kill 9\n",
    }
    write(tmp_path, files, "/system.slice/triton.service")
    report = OomReport(tmp_path)
    write(tmp_path, {f"{own}/memory.events": "oom_kill 3\n"}, "/system.slice/triton.service")
    told = report.on_kill(41 * GIB)
    assert "had: 24.00 GiB" in told
    assert "struck 1 " in told


def test_somebody_else_who_killed(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/meminfo": "MemFree: 1 kB\nMemTotal: 8388608 kB\n",
            "sys/fs/cgroup/memory.events": "low 0\noom_kill 2\n",
            "sys/fs/cgroup/memory.max": "max\n",
        },
    )
    told = OomReport(tmp_path).on_kill(GIB)
    assert "had: 8.00 GiB" in told
    assert "not strike" in told


def test_without_a_counter_nothing_is_claimed(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": "MemTotal: 1048576 kB\n"})
    assert "cannot be read" in OomReport(tmp_path).on_kill(GIB)


def test_this_machine_has_memory() -> None:
    assert "had: 0.00" not in OomReport().on_kill(0)
