"""How many KV blocks there are, and how much memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ernie_backend.devices.host import available_bytes, resident_bytes
from ernie_backend.errors import StartError
from ernie_backend.planning.kv_sizing import check_available, kv_blocks
from support.checkpoints.planned_models import plan_settings

MIB = 1 << 20
LEGACY_NAMES = ("memory.limit_in_bytes", "memory.usage_in_bytes")
SETTINGS = plan_settings(block_size=64, max_model_len=1000, max_num_seqs=4)


@pytest.mark.parametrize(
    ("budget_mib", "blocks"),
    [(16, 16), (40, 40), (64, 64), (1000, 64)],  # 1000 tokens are 16 blocks, four requests 64
)
def test_as_many_blocks_as_fit_and_no_more_than_can_be_used(budget_mib: int, blocks: int) -> None:
    assert kv_blocks(SETTINGS, MIB, budget_mib * MIB) == blocks


@pytest.mark.parametrize(("budget_mib", "left", "fits"), [(15, "15.0", 960), (-7, "0.0", 0)])
def test_a_misfit_names_need_have_and_what_fits(budget_mib: int, left: str, fits: int) -> None:
    with pytest.raises(StartError) as caught:
        kv_blocks(SETTINGS, MIB, budget_mib * MIB)
    assert "max_model_len 1000 needs 16.0 MiB" in caught.value.message
    assert f"{left} MiB are left" in caught.value.message
    assert f"at most {fits} fits" in caught.value.message


def test_blocks_that_the_user_chose_must_fit() -> None:
    assert kv_blocks(SETTINGS.replaced(num_gpu_blocks_override=7), MIB, 7 * MIB) == 7
    with pytest.raises(StartError, match=r"override 8 .*8\.0 MiB.* 7 "):
        kv_blocks(SETTINGS.replaced(num_gpu_blocks_override=8), MIB, 7 * MIB)


def test_memory_that_was_taken_since_the_plan_was_made_is_told() -> None:
    check_available(7, MIB, 7 * MIB)
    with pytest.raises(StartError, match=r"8\.0 MiB.*7\.0 MiB"):
        check_available(8, MIB, 7 * MIB)


def _machine(root: Path, limit: str, group: str = "/") -> Path:
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(f"4:memory:{group}\n1:cpu,cpuacct:/elsewhere\n0::{group}\n")
    (root / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (root / "sys" / "fs" / "cgroup").mkdir(parents=True)
    (root / "sys" / "fs" / "cgroup" / "memory.max").write_text(limit)
    (root / "sys" / "fs" / "cgroup" / "memory.current").write_text("1000000\n")
    return root


@pytest.mark.parametrize(("limit", "available"), [("max\n", 8000 * 1024), ("3000000\n", 2000000), ("5\n", 0)])
def test_available_memory_is_what_machine_and_cgroup_leave(tmp_path: Path, limit: str, available: int) -> None:
    assert available_bytes(_machine(tmp_path, limit)) == available


@pytest.mark.parametrize(
    ("files", "field"),
    [
        (("memory.max", "memory.current", "memory.stat"), "inactive_file"),
        (
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
            "total_inactive_file",
        ),
    ],
)
@pytest.mark.parametrize(("cached", "available"), [(600_000, 2_600_000), (9_000_000, 3_000_000)])
def test_what_a_container_has_read_is_no_memory_taken(
    tmp_path: Path, files: tuple[str, str, str], field: str, cached: int, available: int
) -> None:
    root = _machine(tmp_path, "max\n")
    (root / "sys/fs/cgroup/memory").mkdir()
    contents = ("3000000\n", "1000000\n", f"anon 7\nactive_file 5\n{field} {cached}\nslab 3\n")
    for name, content in zip(files, contents, strict=True):
        (root / "sys/fs/cgroup" / name).write_text(content)
    assert available_bytes(root) == available


@pytest.mark.parametrize("names", [("memory.max", "memory.current"), LEGACY_NAMES])
@pytest.mark.parametrize(("inner", "outer", "available"), [(3, 5, 2), (6, 5, 4), ("max", 5, 4), (3, "max", 2)])
def test_the_groups_around_the_own_one_count_too(
    tmp_path: Path, names: tuple[str, str], inner: int | str, outer: int | str, available: int
) -> None:
    root = _machine(tmp_path, "max\n", "/system.slice/triton.service")
    folder = root / "sys/fs/cgroup" / ("memory" if names == LEGACY_NAMES else "") / "system.slice"
    (folder / "triton.service").mkdir(parents=True)
    for group, limit in ((folder / "triton.service", inner), (folder, outer)):
        (group / names[0]).write_text(f"{limit}000000\n" if isinstance(limit, int) else limit)
        (group / names[1]).write_text("1000000\n")
    assert available_bytes(root) == available * 1_000_000


@pytest.mark.parametrize(
    ("limits", "available"),
    [
        ("Max address space         4096000              unlimited            bytes", 4096000 - 1000 * 1024),
        ("Max data size             2048000              2048000              bytes", 2048000 - 500 * 1024),
        ("Max data size             1024                 unlimited            bytes", 0),
        ("Max address space         unlimited            unlimited            bytes", 8000 * 1024),
    ],
)
def test_limits_of_the_process_count_too(tmp_path: Path, limits: str, available: int) -> None:
    root = _machine(tmp_path, "max\n")
    (root / "proc/self/status").write_text("Name:\tpython\nVmSize:\t    1000 kB\nVmData:\t     500 kB\n")
    (root / "proc/self/limits").write_text(
        f"Limit  Soft Limit  Hard Limit  Units\nMax cpu time  7  7  s\n{limits}\n"
    )
    assert available_bytes(root) == available


@pytest.mark.parametrize(("overcommit", "available"), [(0, 8000), (1, 8000), (2, 600)])
def test_a_kernel_that_does_not_overcommit_counts_what_is_reserved(
    tmp_path: Path, overcommit: int, available: int
) -> None:
    root = _machine(tmp_path, "max\n")
    with (root / "proc/meminfo").open("a") as file:
        file.write("CommitLimit:    4600 kB\nCommitted_AS:   4000 kB\n")
    (root / "proc/sys/vm").mkdir(parents=True)
    (root / "proc/sys/vm/overcommit_memory").write_text(f"{overcommit}\n")
    assert available_bytes(root) == available * 1024


def test_ulimit_v_counts() -> None:
    """In a shell of its own: the limit stays with a process."""
    script = "from ernie_backend.devices.host import available_bytes as a; print(a())"
    command = ["sh", "-c", 'ulimit -v 2000000; exec "$0" -c "$1"', sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert 0 < int(done.stdout) < 2_000_000 * 1024


def test_this_process_holds_memory() -> None:
    assert MIB < resident_bytes() < available_bytes() * 100


def test_freed_memory_between_what_stays_is_given_back() -> None:
    script = (
        "from ernie_backend.devices.host import release_freed, resident_bytes\n"
        "blocks = [bytearray(b'x') * 100_000 for _ in range(400)]\n"
        "del blocks[::2]\n"
        "before = resident_bytes()\n"
        "release_freed()\n"
        "print(before - resident_bytes())\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) > 10 * MIB
