"""Starts and stops a child process that cannot outlive its parent. Its output goes to a log file."""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from nightshift.devstack.errors import BinaryMissing

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to run a child process: command, log file, environment, user and group.

    When the environment, the user or the group is None, the child gets that of this process. On Linux, the kernel sends
    `death_signal` to the child when its parent dies.
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] | None = None
    user: int | None = None
    group: int | None = None
    cwd: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL


class _Process(Protocol):
    """The methods of `subprocess.Popen` that `Child` uses."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def send_signal(self, sig: int) -> None: ...


class AdoptedProcess:
    """A service process that the fork server started and that became a child of this process.

    It has those methods of `subprocess.Popen` that `Child` uses.
    """

    def __init__(self, pid: int) -> None:
        Child.unreaped.add(pid)
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or the negative number of the signal that ended the process.

        Returns None while the process runs.
        """
        return self._take(os.WNOHANG)

    def wait(self) -> int:
        """Block until the process ends and return its exit code."""
        code = self._take(0)
        return 255 if code is None else code

    def send_signal(self, sig: int) -> None:
        """Send a signal. Does nothing when the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def _take(self, options: int) -> int | None:
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:
                self._code = 255  # the process ended before this process could adopt it
            else:
                self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


class Child:
    """A running child process. It may be stopped from another event loop than the one that started it.

    `unreaped` are the pids of children whose exit code has not been read.
    """

    #: Process ids of running children, and of ended ones whose exit code is not collected yet.
    unreaped: ClassVar[set[int]] = set()

    def __init__(self, spec: ChildSpec, process: _Process) -> None:
        self.spec = spec
        self._process = process

    @classmethod
    def start(cls, spec: ChildSpec) -> "Child":
        """Start the process. Raises BinaryMissing when the program does not exist or is not executable."""
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        with spec.log.open("ab") as log:
            try:
                process = subprocess.Popen(
                    spec.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=None if spec.env is None else dict(spec.env),
                    cwd=spec.cwd,
                    user=spec.user,
                    group=spec.group,
                    extra_groups=None if spec.user is None else [],
                    # Ctrl-C reaches a whole process group. In a session of its own the child does not get it; the
                    # supervisor stops children in order.
                    start_new_session=True,
                    preexec_fn=die_with_parent(spec.death_signal),  # noqa: PLW1509 - one prctl, no lock is taken
                )
            except (FileNotFoundError, PermissionError) as error:
                raise BinaryMissing(
                    f"{spec.name} cannot be started: {error.strerror}: {error.filename}",
                    hint="install the project's dependencies again with `make setup`",
                ) from error
        cls.unreaped.add(process.pid)
        return cls(spec, process)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or the negative number of the signal that ended the process.

        Returns None while the process runs.
        """
        code = self._process.poll()
        if code is not None:
            self.unreaped.discard(self.pid)
        return code

    async def wait(self) -> int:
        """Wait until the process ends and return its exit code.

        Uses a process descriptor where the kernel has them, and polls elsewhere.
        """
        if not hasattr(os, "pidfd_open"):
            while (code := self.poll()) is None:  # noqa: ASYNC110 - nothing sets an event
                await asyncio.sleep(_POLL_SECONDS)
            return code
        if (code := self.poll()) is not None:
            return code
        descriptor = os.pidfd_open(self.pid)
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        code = self._process.wait()
        self.unreaped.discard(self.pid)
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. Does nothing when the process has ended."""
        self._process.send_signal(number)

    async def stop(self, *, patience: float = 5.0) -> int:
        """Send the stop signal, then SIGKILL if the process still runs after `patience` seconds.

        Returns the exit code.
        """
        if self.poll() is None:
            self.signal(self.spec.stop_signal)
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self.wait(), patience)
            self.signal(signal.SIGKILL)
        return await self.wait()

    def log_tail(self, lines: int = 12) -> str:
        """Return the last lines of the log, for an error message."""
        return log_tail(self.spec.log, lines)


def log_tail(path: Path, lines: int = 12) -> str:
    """Return the last lines of a log file, or a sentence when it is missing or empty."""
    try:
        text = path.read_bytes()[-16_384:].decode("utf-8", "replace")
    except OSError:
        return f"(no log at {path})"
    return "\n".join(text.strip().splitlines()[-lines:]) or f"({path} is empty)"


def die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Return a function that the child must call between fork and exec.

    It makes the kernel send signal `number` to the child when its parent dies. Returns None outside Linux.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(
        None, use_errno=True
    ).prctl  # looked up before the fork: after it only the call itself is safe
    parent = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before prctl took effect
            os._exit(1)

    return tie
