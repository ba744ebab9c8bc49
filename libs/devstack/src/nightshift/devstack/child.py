"""A child process that cannot outlive us: started, watched and ended by its pid, with its output in a log file."""

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
    """What to run. `death_signal` is what the kernel sends it when we die (Linux only)."""

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
    """What a Child needs of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def send_signal(self, sig: int) -> None: ...


class Adopted:
    """A child that somebody else forked and the kernel gave to us."""

    def __init__(self, pid: int) -> None:
        Child.unreaped.add(pid)
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; none while it runs."""
        return self._take(os.WNOHANG)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        code = self._take(0)
        return 255 if code is None else code

    def send_signal(self, sig: int) -> None:
        """Nothing happens when it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def _take(self, options: int) -> int | None:
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:
                self._code = 255  # it ended before we knew that it was ours
            else:
                self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


class Child:
    """One running process. Not bound to an event loop: it may be started in one and stopped in another."""

    #: Process ids of children whose exit code was not taken yet.
    unreaped: ClassVar[set[int]] = set()

    def __init__(self, spec: ChildSpec, process: _Process) -> None:
        self.spec = spec
        self._process = process

    @classmethod
    def start(cls, spec: ChildSpec) -> "Child":
        """Start it. Raises BinaryMissing when the program cannot be run."""
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
                    # Ctrl-C of a terminal goes to its whole process group; we alone decide in which order children end.
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
        """Its process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; none while it runs."""
        code = self._process.poll()
        if code is not None:
            self.unreaped.discard(self.pid)
        return code

    async def wait(self) -> int:
        """Wait until it has ended, without a thread where the kernel can tell us."""
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
        """Send it a signal; nothing happens when it has ended."""
        self._process.send_signal(number)

    async def stop(self, *, patience: float = 5.0) -> int:
        """Ask it to end, and kill it when it has not ended after `patience` seconds. Returns the exit code."""
        if self.poll() is None:
            self.signal(self.spec.stop_signal)
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self.wait(), patience)
            self.signal(signal.SIGKILL)
        return await self.wait()

    def log_tail(self, lines: int = 12) -> str:
        """The last lines it wrote, for an error message."""
        return log_tail(self.spec.log, lines)


def log_tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log file; a sentence when there is nothing."""
    try:
        text = path.read_bytes()[-16_384:].decode("utf-8", "replace")
    except OSError:
        return f"(no log at {path})"
    return "\n".join(text.strip().splitlines()[-lines:]) or f"({path} is empty)"


def die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """A function for the child, between fork and exec, that ties its life to ours; none where the kernel cannot."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded here: after a fork only the call itself is safe
    parent = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # we died before the tie held
            os._exit(1)

    return tie
