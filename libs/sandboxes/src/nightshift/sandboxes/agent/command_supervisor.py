"""The parent process of one command: starts it, keeps a limited part of its output, and ends it at its timeout."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import selectors
import signal
import time
from collections.abc import Callable
from typing import Any

from . import reserve
from .command_environment import ENVIRONMENT, GIT_CONFIG, within_limit
from .journal import Journal
from .process_tree import descendants

_PR_SET_CHILD_SUBREAPER = 36
_TAIL = 256 * 1024
_READ = 65536
_KILL_GRACE_S = 2.0
_GIT_CONFIG = f"[include]\n\tpath = /etc/gitconfig\n{GIT_CONFIG}"


def spawn(outputs: str, spec: dict[str, Any], lock: int, record_start: Callable[[int], None]) -> None:
    """Start the supervisor of a command in a session of its own. Returns at once. Raises OSError when that fails.

    - `outputs`: the directory for the command's output.
    - `lock`: a descriptor of the journal that holds the call's lock. The supervisor keeps it open until it has recorded
      the end of the command.
    - `record_start`: called with the supervisor's pid. Only after it has returned does the supervisor start the
      command.

    The caller must be a process that ends with its request, so that process 1 adopts the supervisor.
    """
    recorded, record = os.pipe()
    # The supervisor inherits this, so a stop has no effect until the supervisor handles the signal.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                os.close(record)
                if os.read(recorded, 1):  # empty when the caller ended before it recorded the start
                    os.setsid()
                    _detach(lock)
                    CommandSupervisor(outputs, spec, lock).run()
            finally:
                os._exit(0)
        record_start(pid)
        os.write(record, b"1")
    finally:
        os.close(recorded)
        os.close(record)


def _detach(lock: int) -> None:
    """Close every inherited descriptor except the lock, ignore hang-ups, and adopt orphaned descendants."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    close_others(lock)
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Orphans of the command become children of this process, which can then find and end all of them.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def close_others(*keep: int) -> None:
    """Close every open descriptor except those in `keep` and the three standard streams."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            with contextlib.suppress(OSError):  # the one of the listing itself
                os.close(int(name))


class _Kept:
    """One output stream: its first `limit` bytes go to a file. Of the later bytes, only the last ones are kept."""

    def __init__(self, folder: str, name: str, limit: int) -> None:
        self._folder = folder
        self._file = _new_file(folder, name)
        self._room = limit
        self._tail = b""
        self.total = 0
        self.kept = 0

    def take(self, data: bytes) -> None:
        self.total += len(data)
        if self._room > 0:
            self._write(data[: self._room])
            self._room, data = self._room - len(data), data[self._room :]
        if data:
            self._tail = (self._tail + data)[-_TAIL:]

    def _write(self, data: bytes) -> None:
        file = self._file
        if file is not None:
            with contextlib.suppress(OSError):  # a full disk must not stop the draining
                self.kept += reserve.use(self._folder, lambda: os.write(file, data))

    def finish(self) -> None:
        """Write the end of a stream that exceeded the limit, after a note about the dropped bytes."""
        if self._tail:
            dropped = self.total - self.kept - len(self._tail)
            note = f"\n[... {dropped} bytes were not kept ...]\n" if dropped > 0 else ""
            self._write(note.encode() + self._tail)
        self._tail, self._room = b"", 0  # what processes in the background write from now on is not kept


def _new_file(folder: str, name: str) -> int | None:
    """Create a file for a command's output. Returns None when that fails, for example on a full disk: the output is
    then lost.
    """
    path = os.path.join(folder, name)
    try:
        reserve.use(folder, lambda: os.makedirs(folder, exist_ok=True))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return reserve.use(folder, lambda: os.open(path, flags, 0o600))
    except OSError:
        return None


class CommandSupervisor:
    def __init__(self, outputs: str, spec: dict[str, Any], lock: int) -> None:
        self._outputs = outputs
        self._spec = spec
        self._lock = lock
        self._stopped = False
        self._grace_s = _KILL_GRACE_S
        self._timed_out = False
        self._child = 0

    def run(self) -> None:
        wakeup_r, wakeup_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_kill)
        selector = selectors.DefaultSelector()
        streams, pipes = [], []
        for name in ("out", "err"):
            read, write = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(read, False)
            streams.append(_Kept(self._outputs, name, int(self._spec["output_limit"])))
            selector.register(read, selectors.EVENT_READ, streams[-1])
            pipes.append(write)
        selector.register(wakeup_r, selectors.EVENT_READ, None)
        self._child = self._launch(pipes[0], pipes[1])
        for write in pipes:
            os.close(write)
        status = self._watch(selector)
        self._drain(selector)
        for kept in streams:
            kept.finish()
        if self._timed_out or self._stopped:
            self._kill_all()
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        end = {"exit_code": code, "timed_out": self._timed_out, "stopped": self._stopped}
        with contextlib.suppress(OSError):  # a full disk: without the end on record the call counts as died
            Journal(f"/proc/self/fd/{self._lock}").add(self._spec["call_id"], "exit", end)
        os.close(self._lock)
        self._outlive(selector)

    def _on_stop(self, *_: Any) -> None:
        self._stopped = True

    def _on_kill(self, *_: Any) -> None:
        self._stopped, self._grace_s = True, 0.0

    def _launch(self, out: int, err: int) -> int:
        child = os.fork()
        if child:
            return child
        try:
            os.setsid()
            for name in ("SIGPIPE", "SIGINT", "SIGQUIT", "SIGHUP", "SIGTERM", "SIGUSR1", "SIGCHLD"):
                signal.signal(getattr(signal, name), signal.SIG_DFL)
            os.dup2(out, 1)
            os.dup2(err, 2)
            try:
                os.chdir(self._spec["cwd"])
            except OSError as error:
                os.write(2, ("{}: {}\n".format(self._spec["cwd"], error.strerror)).encode())
                os._exit(126)
            argv = within_limit(self._spec["argv"])
            environment = {**ENVIRONMENT, **self._git(), **os.environ, **self._spec["env"]}
            os.execvpe(argv[0], argv, environment)  # noqa: S606 - the shell is the caller's choice
        except OSError as error:
            os.write(2, ("{}: {}\n".format(self._spec["argv"][0], error.strerror)).encode("utf-8", "replace"))
        finally:
            os._exit(127)

    def _git(self) -> dict[str, str]:
        """Write the default git settings to a file beside the output.

        Returns the environment variable that names the file, or an empty dict when the file cannot be written.
        """
        path = os.path.join(self._outputs, "gitconfig")
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(_GIT_CONFIG)
        except OSError:
            return {}
        return {"GIT_CONFIG_SYSTEM": path}

    def _watch(self, selector: selectors.BaseSelector) -> int:
        """Wait until the command ends, or end it when a stop is requested or its timeout is over. Returns its wait
        status.

        Processes that the command left in the background keep running.
        """
        timeout = self._spec["timeout_s"]
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            status = self._reap()
            if status is not None:
                return status
            left = None if deadline is None else deadline - time.monotonic()
            if self._stopped or (left is not None and left <= 0):
                self._timed_out = not self._stopped
                return self._end()
            self._pump(selector, left)

    def _pump(self, selector: selectors.BaseSelector, timeout: float | None) -> bool:
        """Read once from every stream that has data. Returns False when no stream had any."""
        found = False
        for key, _ in selector.select(timeout):
            with contextlib.suppress(BlockingIOError):
                data = os.read(key.fd, _READ)
                if key.data is None:
                    continue
                if data:
                    found = True
                    key.data.take(data)
                else:
                    selector.unregister(key.fd)
                    os.close(key.fd)
        return found

    def _drain(self, selector: selectors.BaseSelector) -> None:
        """Read the output that the command wrote before its end, for at most one second."""
        until = time.monotonic() + 1.0
        while time.monotonic() < until and self._pump(selector, 0):
            pass

    def _reap(self) -> int | None:
        """Collect ended children, including adopted orphans.

        Returns the command's wait status, or None while it runs.
        """
        status = None
        while True:
            try:
                pid, got = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return status
            if pid == 0:
                return status
            if pid == self._child:
                status = got

    def _end(self) -> int:
        """End the process group of the command: SIGTERM, and SIGKILL if it still runs after the grace period.

        Returns the command's wait status.
        """
        status = None
        for signal_number, seconds in ((signal.SIGTERM, self._grace_s), (signal.SIGKILL, math.inf)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child, signal_number)
            until = time.monotonic() + seconds
            while status is None and time.monotonic() < until:
                time.sleep(0.01)
                status = self._reap()
        return status or 0

    def _kill_all(self) -> None:
        """Kill all descendants, repeatedly until none is left, because a process may fork while others are killed."""
        for _ in range(200):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child, signal.SIGKILL)
            alive = descendants(os.getpid())
            for pid in alive:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._reap()
            if not alive:
                return
            time.sleep(0.005)

    def _outlive(self, selector: selectors.BaseSelector) -> None:
        """Read and discard output while background processes of the ended command still have its output pipes open.

        Without a reader, their next write would kill them.
        """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while len(selector.get_map()) > 1:
            self._reap()
            self._pump(selector, None)
