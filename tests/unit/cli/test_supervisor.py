"""Whatever ends a command, its children end with it, and the cause is told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ernie_cli.errors import CommandError
from ernie_cli.processes.child_launcher import launcher_command
from ernie_cli.processes.supervisor import StopRequested, Supervisor
from ernie_frontend.log_output import LogOutput, standard_error
from support.waiting import has_ended

DEADLINE_S = 60.0
# What a child does at SIGTERM. With a handler and pause() it would sleep on if the signal came just before.
BLOCK_SIGTERM = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
AWAIT_SIGTERM = "signal.sigwait([signal.SIGTERM])\n"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


async def wait_for_file(path: Path) -> str:
    """Return the text of a file that a child writes when it is up."""
    while not (path.exists() and path.read_text().endswith("\n")):
        await asyncio.sleep(0.01)
    return path.read_text()


async def test_output_goes_where_it_is_told_to(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "log").open("wb") as log:
        async with Supervisor(LogOutput(log.fileno())) as supervisor:
            await supervisor.start("the helper", python("print('a line')"), os.environ)
            with pytest.raises(CommandError):
                await supervisor.run(asyncio.sleep(DEADLINE_S))
    assert (tmp_path / "log").read_text() == "a line\n"
    assert capfd.readouterr() == ("", "")


async def test_work_that_ends_first_gives_its_result() -> None:
    async def work() -> int:
        return 7

    async with Supervisor() as supervisor:
        child = await supervisor.start("sleeper", python("import signal; signal.pause()"), os.environ)
        assert await supervisor.run(work()) == 7
    assert not psutil.pid_exists(child.pid)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("print('the last line'); raise SystemExit(3)", "exited with status 3"),
        (
            "import os; print('the last line', flush=True); os.kill(os.getpid(), 9)",
            "killed by SIGKILL, probably",
        ),
        ("import os; print('the last line', flush=True); os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
    ],
)
async def test_a_child_that_dies_tells_its_last_lines_and_the_cause(code: str, cause: str) -> None:
    async with Supervisor() as supervisor:
        await supervisor.start("the helper", python(code), os.environ)
        with pytest.raises(CommandError) as raised:
            await asyncio.wait_for(supervisor.run(asyncio.sleep(DEADLINE_S)), DEADLINE_S)
    assert raised.value.message.startswith("the helper ended: ")
    assert cause in raised.value.message
    assert raised.value.last_lines == ("the last line",)
    assert raised.value.to_text().splitlines()[-1] == f"ernie-triton: {raised.value.message}"


async def test_a_failure_that_follows_from_a_death_is_told_as_the_death() -> None:
    async with Supervisor() as supervisor:
        child = await supervisor.start("the server", python("raise SystemExit(3)"), os.environ)

        async def fail_after_its_death() -> None:
            while not has_ended(child.pid):
                await asyncio.sleep(0.01)
            raise RuntimeError("connection refused")

        with pytest.raises(CommandError, match="the server ended"):
            await supervisor.run(fail_after_its_death())


async def test_a_failure_while_all_children_live_is_told_as_it_is() -> None:
    async def fail_at_once() -> None:
        raise RuntimeError("mine")

    async with Supervisor() as supervisor:
        await supervisor.start("sleeper", python("import signal; signal.pause()"), os.environ)
        with pytest.raises(RuntimeError, match="mine"):
            await supervisor.run(fail_at_once())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_children_in_reverse_order(
    number: signal.Signals, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    code = (
        f"{BLOCK_SIGTERM}import sys\n"
        "name, log = sys.argv[1:]\n"
        "open(log + name, 'w').write('up\\n')\n"
        f"{AWAIT_SIGTERM}open(log, 'a').write(name + ' ends\\n')\n"
    )

    async def signal_when_up() -> None:
        for name in ("first", "second"):
            await wait_for_file(Path(f"{log}{name}"))
        os.kill(os.getpid(), number)
        await asyncio.sleep(DEADLINE_S)

    async with Supervisor() as supervisor:
        for name in ("first", "second"):
            await supervisor.start(name, [*python(code), name, str(log)], os.environ)
        with pytest.raises(StopRequested):
            await supervisor.run(signal_when_up())
    assert log.read_text() == "second ends\nfirst ends\n"
    standard_error().drain()
    notice = "Stopping: what has been started is ended; a second Ctrl-C or signal ends at once.\n"
    assert capfd.readouterr().err == notice


async def test_what_a_child_started_ends_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    grandchild = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    code = (
        "import os, subprocess, sys\n"
        f"process = subprocess.Popen([sys.executable, '-c', {grandchild!r}])\n"
        f"open({str(pid_file)!r}, 'w').write(f'{{process.pid}}\\n')\n"
        "os._exit(5)\n"
    )
    async with Supervisor() as supervisor:
        child = await supervisor.start("parent", python(code), os.environ, grace_s=0.2)
        pid = int(await asyncio.wait_for(wait_for_file(pid_file), DEADLINE_S))
        await child.stop()
    gone, _ = psutil.wait_procs([psutil.Process(pid)], DEADLINE_S) if psutil.pid_exists(pid) else ([1], [])
    assert gone


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    up = tmp_path / "up"
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(up)!r}, 'w').write('up\\n')\n"
        "while True: signal.pause()\n"
    )
    async with Supervisor() as supervisor:
        child = await supervisor.start("stubborn", python(code), os.environ, grace_s=0.2)
        await asyncio.wait_for(wait_for_file(up), DEADLINE_S)
        await asyncio.wait_for(child.stop(), DEADLINE_S)
    assert not psutil.pid_exists(child.pid)


async def test_a_child_without_a_grace_may_take_as_long_as_it_needs(tmp_path: Path) -> None:
    up, done = tmp_path / "up", tmp_path / "done"
    code = (
        f"{BLOCK_SIGTERM}import sys, time\n"
        f"open({str(up)!r}, 'w').write('up\\n')\n"
        f"{AWAIT_SIGTERM}time.sleep(float(sys.argv[1]))\n"
        f"open({str(done)!r}, 'w').write('done\\n')\n"
    )
    for grace_s, takes_s, finishes in ((0.05, 1000, False), (None, 0.3, True)):
        async with Supervisor() as supervisor:
            await supervisor.start("slow", [*python(code), str(takes_s)], os.environ, grace_s)
            await asyncio.wait_for(wait_for_file(up), DEADLINE_S)
        up.unlink()
        assert done.exists() is finishes


def test_a_tied_command_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    tied = f"import os, signal; open({str(pid_file)!r}, 'w').write(f'{{os.getpid()}}\\n'); signal.pause()"
    code = (
        "import subprocess, sys\n"
        "from ernie_cli.processes.child_launcher import launcher_command\n"
        f"subprocess.run(launcher_command([sys.executable, '-c', {tied!r}]))\n"
    )
    parent = subprocess.Popen(python(code))
    child = psutil.Process(int(asyncio.run(asyncio.wait_for(wait_for_file(pid_file), DEADLINE_S))))
    parent.kill()
    parent.wait()
    gone, _ = psutil.wait_procs([child], DEADLINE_S)
    assert gone


def test_a_tied_command_that_is_not_there_says_so() -> None:
    result = subprocess.run(launcher_command(["/nowhere/program"]), capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "/nowhere/program cannot be run: No such file or directory\n"


async def test_a_process_that_stays_stopped_is_killed_and_no_other(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    grandchild = "import signal; signal.pause()"
    code = (
        "import subprocess, sys\n"
        f"process = subprocess.Popen([sys.executable, '-c', {grandchild!r}])\n"
        f"open({str(pid_file)!r}, 'w').write(f'{{process.pid}}\\n')\n"
        "process.wait(); import signal; signal.pause()\n"
    )
    async with Supervisor() as supervisor:
        child = await supervisor.start("parent", python(code), os.environ)
        pid = int(await asyncio.wait_for(wait_for_file(pid_file), DEADLINE_S))
        assert {member.pid for member in child.group()} == {child.pid, pid}
        os.kill(pid, signal.SIGSTOP)
        while pid in {member.pid for member in child.group()}:
            await asyncio.sleep(0.05)
        assert child.status is None
        os.kill(child.pid, signal.SIGSTOP)
        error = await asyncio.wait_for(child.ended(), DEADLINE_S)
    assert "was stopped" in error.message


async def test_only_the_descendants_are_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys\n"
        "process = subprocess.Popen(['sleep', '1000'])\n"
        f"open({str(pid_file)!r}, 'w').write(f'{{process.pid}}\\n')\n"
        "raise SystemExit(process.wait() + 10)\n"
    )
    async with Supervisor() as supervisor:
        child = await supervisor.start("parent", python(code), os.environ)
        await asyncio.wait_for(wait_for_file(pid_file), DEADLINE_S)
        child.kill_descendants()
        await asyncio.wait_for(child.ended(), DEADLINE_S)
    assert child.status == 10 - signal.SIGKILL


async def test_a_child_that_is_started_again_keeps_its_place(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        f"{BLOCK_SIGTERM}import os, sys\n"
        "name, log = sys.argv[1:]\n"
        "open(f'{log}{name}{os.getpid()}', 'w').write('up\\n')\n"
        f"{AWAIT_SIGTERM}open(log, 'a').write(name + ' ends\\n')\n"
    )
    async with Supervisor() as supervisor:
        children = [await supervisor.start(name, [*python(code), name, str(log)], os.environ) for name in "ab"]
        children[0].kill()
        await children[0].stop()
        children[0] = await supervisor.restart(children[0])
        for name, child in zip("ab", children, strict=True):
            await wait_for_file(Path(f"{log}{name}{child.pid}"))
        await supervisor.run(asyncio.sleep(0))
    assert log.read_text() == "b ends\na ends\n"
