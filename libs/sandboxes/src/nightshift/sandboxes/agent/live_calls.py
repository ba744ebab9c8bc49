"""The calls of a local sandbox, kept in the memory of its agent program. Each call id runs once.

The agent program is process 1, which commands cannot reach. So commands cannot change its record of the calls.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .answering import with_output
from .command_environment import ENVIRONMENT, MARK, within_limit
from .event_loop import EventLoop, Timer
from .identity import become_command
from .kept_output import KeptOutput
from .looks import Look
from .process_tree import living, members
from .wire import Refusal, checked_call_id

_READ = 64 * 1024
#: Seconds between SIGTERM and SIGKILL.
GRACE_S = 2.0
#: Seconds between two searches for processes that a killed one has forked, and the number of searches.
_KILL_AGAIN_S, _KILL_ROUNDS = 0.005, 200
#: Seconds between two reads of the output of background processes after their call has ended.
_DISCARD_S = 0.05
#: So many reads empty a pipe of the largest size that a command may set, 1 MiB.
_DRAIN_READS = 16
#: The most calls that run at the same time. Each needs file descriptors of the agent.
MOST_RUNNING = 200
#: Bytes of ended calls' output that stay in memory. Beyond it, the oldest output goes to files.
_MEMORY = 16 * 1024 * 1024
#: Bytes of output in files. Beyond it, the oldest files are removed.
_ON_DISK = 256 * 1024 * 1024
_NO_ROOM = (
    b"bash: the sandbox has no room for another process; processes that ended calls had left were ended\n"
)


class Call:
    """One command from its start on, with its state and its kept output."""

    def __init__(self, call_id: str, folder: str, output_limit: int) -> None:
        self.call_id = call_id
        self.folder = folder
        self.streams = tuple(KeptOutput(os.path.join(folder, name), output_limit) for name in ("out", "err"))
        self.mark = f"{MARK}={call_id}".encode("ascii")
        self.pid = 0
        self.open: dict[int, KeptOutput] = {}  # open pipe descriptor → the stream it feeds
        self.failure = -1  # a pipe on which the error number arrives when the command cannot be executed
        self.deadline: Timer | None = None
        self.status: int | None = None
        self.end: dict[str, Any] | None = None
        self.timed_out = self.stopped = False
        self.look = Look()
        self.waiters: list[Callable[[], None]] = []

    def state(self) -> dict[str, Any]:
        """Return the state of the call in the form of an answer."""
        return {
            "state": "running" if self.end is None else "finished",
            "folder": self.folder,
            **(self.end or {}),
        }


class LiveCalls:
    """Starts, watches and ends calls.

    `outputs` is the directory for long outputs, to which only the agent program can write.
    """

    def __init__(self, loop: EventLoop, outputs: str, limits: dict[str, int]) -> None:
        self._loop = loop
        self._outputs = outputs
        self._limits = limits
        self._calls: dict[str, Call] = {}
        self._notes: dict[str, str] = {}
        self._in_memory: dict[
            str, int
        ] = {}  # ended calls with output in memory, oldest first: call id → bytes
        self._on_disk: dict[str, int] = {}
        self._running: set[str] = set()

    def find(self, call_id: str) -> Call | None:
        return self._calls.get(checked_call_id(call_id))

    def start(self, spec: dict[str, Any]) -> Call:
        """Start the command and return its call. A call that began before is returned as it is.

        Raises Refusal when too many calls are running.
        """
        call_id = checked_call_id(spec["call_id"])
        call = self._calls.get(call_id)
        if call is not None:
            return call
        if len(self._running) >= MOST_RUNNING:
            raise Refusal("busy", f"{MOST_RUNNING} commands run in this sandbox; stop some of them first")
        call = Call(
            call_id, os.path.join(self._outputs, call_id.replace("/", "~")), int(spec["output_limit"])
        )
        self._launch(call, spec)
        self._calls[call_id] = call
        self._running.add(call_id)
        if spec["timeout_s"] is not None:
            call.deadline = self._loop.later(float(spec["timeout_s"]), lambda: self._time_out(call))
        return call

    def _launch(self, call: Call, spec: dict[str, Any]) -> None:
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        (out, out_write), (err, err_write), (failure, failure_write) = pipes
        environment = {**ENVIRONMENT, **os.environ, **spec["env"], MARK: call.call_id}
        try:
            pid = os.fork()
        except OSError:
            for pair in pipes:
                os.close(pair[0])
                os.close(pair[1])
            raise
        if pid == 0:
            _execute(spec, environment, (out_write, err_write, failure_write), self._limits)
        for write in (out_write, err_write, failure_write):
            os.close(write)
        call.pid, call.failure = pid, failure
        for read, kept in ((out, call.streams[0]), (err, call.streams[1])):
            os.set_blocking(read, False)
            call.open[read] = kept
            self._loop.watch(read, partial(self._pump, call, read))
        self._loop.on_exit(pid, lambda status: self._on_exit(call, status))

    def _pump(self, call: Call, read: int) -> bool:
        """Read once from the descriptor `read` of an output stream. Returns False when it had no data.

        Discards output that background processes write after the end of the call.
        """
        try:
            data = os.read(read, _READ)
        except BlockingIOError:
            return False
        if not data:
            self._loop.unwatch(read)
            os.close(read)
            del call.open[read]
            return False
        if call.end is None:
            call.open[read].take(data)
        else:  # a background process still writes; it is read slowly, so that it cannot keep the agent busy
            self._loop.unwatch(read)
            self._loop.later(_DISCARD_S, lambda: self._listen_again(call, read))
        return True

    def _listen_again(self, call: Call, read: int) -> None:
        if read in call.open:
            self._loop.watch(read, partial(self._pump, call, read))

    def _on_exit(self, call: Call, status: int) -> None:
        if call.end is not None:
            return
        call.status = status
        if call.deadline is not None:
            call.deadline.cancel()
        if call.timed_out or call.stopped:
            self._kill(call)
        else:
            self._finish(call)

    def _time_out(self, call: Call) -> None:
        if call.status is None and not call.stopped:
            call.timed_out = True
            self._terminate(call, GRACE_S)

    def stop(self, call_id: str, grace_s: float) -> Call | None:
        """Begin to end the command and everything it started: SIGTERM now, SIGKILL after `grace_s` seconds.

        Returns the call, or None when it never began. Does nothing to an ended call.
        """
        call = self.find(call_id)
        if call is not None and call.end is None:
            call.stopped = not call.timed_out
            self._terminate(call, grace_s)
        return call

    def _terminate(self, call: Call, grace_s: float) -> None:
        if grace_s > 0 and call.status is None:
            _signal_group(call, signal.SIGTERM)
            _signal_group(call, signal.SIGCONT)
            self._loop.later(grace_s, lambda: self._kill(call))
        else:
            self._kill(call)

    def _kill(self, call: Call, rounds: int = _KILL_ROUNDS) -> None:
        """Kill every process of the call, repeatedly until none is left or `rounds` are over. Then record its end."""
        if call.end is not None:
            return
        _signal_group(call, signal.SIGKILL)
        alive = members(call.mark, call.pid)
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if rounds <= 0 or (call.status is not None and not alive):
            self._finish(call)
        else:
            self._loop.later(_KILL_AGAIN_S, lambda: self._kill(call, rounds - 1))

    def _finish(self, call: Call) -> None:
        """Read the call's remaining output, record its end, and answer the clients that wait for the end."""
        for _ in range(_DRAIN_READS):
            if sum(self._pump(call, read) for read in list(call.open)) == 0:
                break
        self._explain(call)
        whole = any(kept.in_memory is None for kept in call.streams)
        for kept in call.streams:
            if whole and kept.in_memory:
                kept.spill()  # a note may name the files of both
            kept.finish()
        status = signal.SIGKILL if call.status is None else call.status  # None: it cannot even be killed
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        call.end = {"exit_code": code, "timed_out": call.timed_out, "stopped": call.stopped}
        self._running.discard(call.call_id)
        self._remember(call)
        waiters, call.waiters = call.waiters, []
        for waiter in waiters:
            waiter()

    def _explain(self, call: Call) -> None:
        """Add to the call's stderr why its command could not be executed, if there was no room for another process.

        In that case also kills the processes that belong to no running call.
        """
        failed = os.read(call.failure, 16)
        os.close(call.failure)
        if failed == b"%d" % errno.EAGAIN:
            self.end_leftovers()
            call.streams[1].take(_NO_ROOM)

    def end_leftovers(self) -> None:
        """Kill the processes that belong to no running call."""
        kept: set[int] = set()
        for call_id in self._running:
            call = self._calls[call_id]
            kept.update(members(call.mark, call.pid))
        kept |= self._loop.children - {call.pid for call in self._calls.values()}  # the agent's own
        left = [one.pid for one in living() if one.pid != 1 and one.pid not in kept]
        for pid in left or ([-1] if kept else []):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _remember(self, call: Call) -> None:
        """Count the output of an ended call. If all outputs exceed the limit in memory, move the oldest to files.

        If all files exceed the limit on disk, remove the oldest files.
        """
        held = sum(len(kept.in_memory or b"") for kept in call.streams)
        if held:
            self._in_memory[call.call_id] = held
        while sum(self._in_memory.values()) > _MEMORY:
            oldest = next(iter(self._in_memory))
            del self._in_memory[oldest]
            for kept in self._calls[oldest].streams:
                kept.spill()
                kept.close()
        self._on_disk[call.call_id] = sum(kept.size for kept in call.streams) - held
        while sum(self._on_disk.values()) > _ON_DISK and len(self._on_disk) > 1:
            oldest = next(iter(self._on_disk))
            del self._on_disk[oldest]
            for kept in self._calls[oldest].streams:
                kept.remove()

    def note(self, call_id: str, text: str | None) -> str | None:
        """Store a text for the call, unless the call has one already.

        Returns the stored text, or None when there is none. A call that runs no command stores its intent, to be known
        after a crash.
        """
        if text is not None:
            self._notes.setdefault(checked_call_id(call_id), text)
        return self._notes.get(checked_call_id(call_id))

    def look(self, call_id: str, reader: str) -> tuple[dict[str, Any], Iterator[bytes]]:
        """Return the state of a background call and the new output of its two streams, for the call `reader`.

        Output is new until a call has read it. If the same call repeats its reading, it gets the same part again, and
        any later output.
        """
        call = self.find(call_id)
        if call is None:
            return {"state": "unknown"}, iter((b"",))
        call.look = call.look.next(reader, tuple(kept.total for kept in call.streams))
        out, err = (kept.since(call.look.start[number]) for number, kept in enumerate(call.streams))
        return with_output(call.state(), out, err)

    def output(self, call_id: str, stream: str, offset: int, limit: int) -> Iterator[bytes]:
        """Yield up to `limit` bytes of the call's kept `stream` (out or err), from byte `offset` on.

        Yields nothing for a call that never began.
        """
        if stream not in ("out", "err"):
            raise Refusal("bad_request", "no such stream")
        call = self.find(call_id)
        if call is not None:
            yield from call.streams[stream == "err"].read(offset, limit)


def _execute(
    spec: dict[str, Any], environment: dict[str, str], pipes: tuple[int, int, int], limits: dict[str, int]
) -> None:
    """Execute the command in this forked process. Never returns."""
    out, err, failure = pipes
    code = 127
    try:
        os.setsid()
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.umask(0o022)
        argv = within_limit(spec["argv"])
        become_command(limits)
        try:
            os.chdir(spec["cwd"])
        except OSError as error:
            os.write(2, ("{}: {}\n".format(spec["cwd"], error.strerror)).encode())
            code = 126
            return
        os.execvpe(argv[0], argv, environment)  # noqa: S606 - the shell is the caller's choice
    except OSError as error:
        if error.errno == errno.EAGAIN:
            os.write(failure, b"%d" % errno.EAGAIN)
        else:
            os.write(2, ("{}: {}\n".format(spec["argv"][0], error.strerror)).encode("utf-8", "replace"))
    finally:
        os._exit(code)


def _signal_group(call: Call, number: int) -> None:
    """Send the signal to the process group of the command, unless the command has ended and its status was read.

    Until then the kernel does not give the group's id to another process.
    """
    if call.status is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(call.pid, number)
