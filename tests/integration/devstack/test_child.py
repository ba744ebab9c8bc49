"""A child ends when it is told to, when it must, and when its parent dies."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nightshift.devstack import parts
from nightshift.devstack.child import Child, ChildSpec, log_tail
from nightshift.devstack.errors import BinaryMissing, PartFailed, PortTaken
from nightshift.devstack.orphans import end_sandboxes
from nightshift.devstack.parts import ready
from nightshift.devstack.ports import draw_port, is_free

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ignoring', flush=True)\n"
    "while True: time.sleep(60)"
)


def _spec(folder: Path, *argv: str) -> ChildSpec:
    return ChildSpec("tested", argv, folder / "child.log")


@pytest.fixture
def killed_at_the_end() -> Iterator[list[int]]:
    pids: list[int] = []
    yield pids
    for pid in pids:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


async def test_it_ends_when_told_and_tells_its_code(tmp_path: Path) -> None:
    child = Child.start(_spec(tmp_path, "sleep", "600"))
    assert child.poll() is None
    assert await child.stop() == -signal.SIGTERM
    assert await child.stop() == -signal.SIGTERM, "twice is once"


async def test_a_deaf_one_is_killed(tmp_path: Path, eventually) -> None:
    child = Child.start(_spec(tmp_path, sys.executable, "-c", STUBBORN))
    await eventually(lambda: "ignoring" in log_tail(tmp_path / "child.log"))
    assert await child.stop(patience=0.1) == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child's life to its parent's")
async def test_it_dies_with_a_parent_that_is_killed(
    tmp_path: Path, eventually, killed_at_the_end: list[int]
) -> None:
    parent = subprocess.Popen(  # noqa: ASYNC220 - it is its death that counts
        [
            sys.executable,
            "-c",
            "import sys, time\nfrom pathlib import Path\nfrom nightshift.devstack.child import Child, ChildSpec\n"
            "child = Child.start(ChildSpec('t', ['sleep', '600'], Path(sys.argv[1])))\n"
            "print(child.pid, flush=True)\ntime.sleep(600)",
            str(tmp_path / "log"),
        ],
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        killed_at_the_end.append(pid)
        assert psutil.pid_exists(pid)
        parent.kill()
    await eventually(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    )


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BinaryMissing, match="/no/such/program"):
        Child.start(_spec(tmp_path, "/no/such/program"))


async def _listens(child: Child, port: int) -> bool:
    return "listening" in log_tail(child.spec.log)


def _listener(folder: Path, port: int) -> ChildSpec:
    code = (
        "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); "
        "print('listening', flush=True); time.sleep(600)"
    )
    return ChildSpec("listener", [sys.executable, "-c", code, str(port)], folder / f"{port}.log")


async def test_a_drawn_port_that_was_taken_meanwhile_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually
) -> None:
    first = Child.start(_listener(tmp_path, taken := draw_port()))
    try:
        await eventually(lambda: _listens(first, taken))
        (tmp_path / f"{taken}.log").unlink()
        draws = iter([taken, draw_port()])
        monkeypatch.setattr(ready, "draw_port", lambda: next(draws))
        child, port = await ready.start_ready(lambda p: _listener(tmp_path, p), _listens, port=0, timeout=10)
        assert port != taken
        await child.stop()
    finally:
        await first.stop()


async def test_a_port_asked_for_by_number_is_not_drawn_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(PortTaken, match=str(port)):
            await ready.start_ready(lambda p: _listener(tmp_path, p), _listens, port=port, timeout=10)


async def test_one_that_never_answers_is_ended_and_told(tmp_path: Path) -> None:
    started: list[Child] = []

    async def never(child: Child, port: int) -> bool:
        started[:] = [child]
        return False

    with pytest.raises(PartFailed, match=r"did not answer on port \d+ within 0.1 s"):
        await ready.start_ready(lambda p: _spec(tmp_path, "sleep", "600"), never, port=0, timeout=0.1)
    assert started[0].poll() is not None


async def test_the_broker_comes_back_empty_on_its_port(tmp_path: Path) -> None:
    broker = parts.EmbeddedKafka(tmp_path)
    first = await broker.start()
    broker.child.signal(signal.SIGKILL)
    await broker.child.wait()
    try:
        assert await broker.start() == first
    finally:
        await broker.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets us adopt")
async def test_what_a_dead_child_left_behind_is_reaped_and_ended(
    tmp_path: Path, eventually, killed_at_the_end: list[int]
) -> None:
    """In a process of its own: pytest itself must not adopt."""
    code = """
import asyncio, signal, sys
from pathlib import Path
from nightshift.devstack.child import Child, ChildSpec
from nightshift.devstack.orphans import adopt_orphans, end_orphans

async def main():
    adopt_orphans()
    shell = "setsid sleep 600 & echo $!; setsid sleep 0.1 & echo $!; exec sleep 600"
    child = Child.start(ChildSpec("t", ["sh", "-c", shell], Path(sys.argv[1])))
    while len(Path(sys.argv[1]).read_text().split()) < 2:
        await asyncio.sleep(0.01)
    child.signal(signal.SIGKILL)
    assert await child.wait() == -signal.SIGKILL
    print(*Path(sys.argv[1]).read_text().split(), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(end_orphans(), flush=True)
    await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""
    parent = subprocess.Popen(  # noqa: ASYNC220 - a child that lives through the whole test
        [sys.executable, "-c", code, str(tmp_path / "pids")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        long, short = (int(one) for one in parent.stdout.readline().split())
        killed_at_the_end.append(long)
        assert psutil.Process(long).ppid() == parent.pid, "adopted"
        await eventually(lambda: not psutil.pid_exists(short), what="the one that ended is reaped")
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "1\n"
        await eventually(lambda: not psutil.pid_exists(long), what="the other one is ended")
        parent.stdin.write("\n")
    assert parent.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets us adopt")
def test_a_child_that_ends_while_inspected_is_no_failure(
    tmp_path: Path, killed_at_the_end: list[int]
) -> None:
    """In a process of its own: pytest itself must not adopt."""
    code = """
import asyncio, os, signal, sys
import psutil
from pathlib import Path
from nightshift.devstack.child import Child, ChildSpec
from nightshift.devstack.orphans import adopt_orphans, end_orphans

async def main():
    adopt_orphans()
    shell = 'sh -c "sleep 600 & echo \\$! \\$\\$; exec sleep 600" & exec sleep 600'
    child = Child.start(ChildSpec("t", ["sh", "-c", shell], Path(sys.argv[1])))
    while len(told := Path(sys.argv[1]).read_text().split()) < 2:
        await asyncio.sleep(0.01)
    left, adopted = map(int, told)
    child.signal(signal.SIGKILL)
    await child.wait()
    looked = psutil.Process.children

    def ends_just_now(one, recursive=False):
        if one.pid == adopted and psutil.pid_exists(adopted):
            os.kill(adopted, signal.SIGKILL)
            os.waitpid(adopted, 0)
        return looked(one, recursive)

    psutil.Process.children = ends_just_now
    print(left, flush=True)
    end_orphans()
    os.waitpid(left, 0)
    print("ended", flush=True)

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pids")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    left, *told = done.stdout.split()
    killed_at_the_end.append(int(left))
    assert (told, done.returncode) == (["ended"], 0), done.stderr


def test_the_next_up_ends_the_sandboxes_of_a_killed_one(tmp_path: Path) -> None:
    (tmp_path / "local-0123456789abcdef").mkdir()
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    theirs = subprocess.Popen([*sleeps, "local-0123456789abcdef"])
    relays = subprocess.Popen([*sleeps, str(tmp_path / "local-0123456789abcdef"), "8000"])
    others = subprocess.Popen([*sleeps, "local-fedcba9876543210"])
    looks = subprocess.Popen(
        ["tail", "-f", str(tmp_path / "local-0123456789abcdef")], stderr=subprocess.DEVNULL
    )
    try:
        assert end_sandboxes(tmp_path) == 2
        assert [theirs.wait(10), relays.wait(10), others.poll()] == [-9, -9, None]
        assert looks.poll() != -9, "somebody who looks at its files"
        assert end_sandboxes(tmp_path / "nothing") == 0
    finally:
        for one in (theirs, relays, others, looks):
            one.kill()
            one.wait()
