"""Stops and continues all commands by signals. Used where the machine cannot freeze a sandbox's cgroup."""

from __future__ import annotations

import contextlib
import os
import signal

from .process_tree import living

_ROUNDS = 50


def pause() -> None:
    """Stop every command with SIGSTOP. Kills a process that still runs after several rounds, because others continue
    it.
    """
    for _ in range(_ROUNDS):
        signal_all(signal.SIGSTOP)
        if all(_stopped(one.pid) for one in living() if one.pid != 1):
            return
    for one in living():
        if one.pid != 1 and not _stopped(one.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)


def signal_all(number: int) -> None:
    """Send a signal to every process in the sandbox except process 1."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def _stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            return file.read().rpartition(")")[2].split()[0] in ("T", "t", "Z", "X")
    except OSError:
        return True
