"""The journal of calls and its supervisors, in plain processes without a sandbox."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from nightshift.sandboxes.agent import journal as journals
from nightshift.sandboxes.agent.journal import Journal


@pytest.mark.parametrize("chunk", [499, 16 * 1024])
@pytest.mark.parametrize("room", [0, 8192])
def test_the_first_record_of_a_kind_is_found_at_any_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, room: int
) -> None:
    monkeypatch.setattr(journals, "_CHUNK", chunk)
    journal, random, first = Journal(str(tmp_path / "journal"), room=room), Random(chunk), {}
    journal.create("b/0/s")
    for number in range(200):
        key = (f"b/{random.randrange(60)}/0", random.choice(["began", "exit", "note"]))
        value = random.choice([{"pid": number}, "t" * random.randrange(300), True])
        journal.add(*key, value)
        first.setdefault(key, value)
    assert {key: journal.find(*key) for key in first} == first
    assert journal.find("b/1/00", "began") is None
    assert journal.generation() == "b/0/s"


def test_a_half_written_record_is_skipped(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"), room=0)
    journal.create("b/0/s")
    with (tmp_path / "journal").open("ab") as file:
        file.write(b'\nb/1/0 exit {"exit_co')
    assert journal.find("b/1/0", "exit") is None
    journal.add("b/1/0", "exit", {"exit_code": 3})
    assert journal.find("b/1/0", "exit") == {"exit_code": 3}


def test_a_stop_before_the_supervisor_is_ready_does_not_kill_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _STOPPED_EARLY, str(tmp_path)], check=True, timeout=60)
    journal = Journal(str(tmp_path / "journal"))
    assert journal.wait_unlocked("b/1/0", 30)
    assert journal.find("b/1/0", "exit")["exit_code"] == 0


_STOPPED_EARLY = """
import os, signal, sys
from nightshift.sandboxes.agent.command_supervisor import spawn
from nightshift.sandboxes.agent.journal import Journal
journal = Journal(sys.argv[1] + "/journal")
journal.create("b/0/s")
spec = {"call_id": "b/1/0", "argv": ["true"], "cwd": "/", "env": {}, "timeout_s": 20, "output_limit": 100}
with journal.lock("b/1/0", wait=False) as lock:
    spawn(sys.argv[1] + "/output", spec, lock, lambda pid: os.kill(pid, signal.SIGTERM))
"""
