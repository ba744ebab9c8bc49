"""The agent program of a local sandbox: one process, the sandbox's process 1, for as long as the sandbox runs.

It starts and watches commands in its event loop and answers at once. File operations may take long or meet a hostile
tree, so each runs in a forked process. A crash or an endless search then affects only that request.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import resource
import signal
import socket
from collections import deque
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import egress, identity
from .answering import answer, framed, with_output
from .command_environment import unnamed_file
from .command_supervisor import close_others
from .connection import Connection
from .event_loop import EventLoop
from .live_calls import GRACE_S, Call, LiveCalls
from .pausing import pause, signal_all
from .usage import usage
from .visitors import copy_to_port
from .wire import Refusal, json_frame

if TYPE_CHECKING:
    from .operations import FileOperations

#: The most forked file operations, and the most visitors of previews, at the same time.
_MOST_OPERATIONS, _MOST_VISITORS = 24, 128
#: Seconds after the `hello` request within which the first real request usually comes.
_IDLE_S = 0.02
#: Seconds within which the creator of a sandbox greets its agent. It gives up after 20 s.
_GREETED_S = 30.0
#: Seconds that a file operation may take when the client names no limit.
_OPERATION_S = 1900.0


class Server:
    """Answers the requests of one sandbox."""

    def __init__(self, home: str, own: str, digests: int, limits: dict[str, int]) -> None:
        """`home` is the sandbox's home directory, `own` the directory to which only the agent program can write.

        `digests` is the descriptor of the digest cache. `limits` are the resource limits of commands.
        """
        self.loop = EventLoop()
        self._home = home
        self._digests = digests
        self._limits = limits
        self._calls = LiveCalls(self.loop, os.path.join(own, "calls"), limits)
        self._generation: str | None = None
        self._greeted = False
        self._written: dict[str, str] = {}  # call id → "now" while its write runs, "done" afterwards
        self._after_write: dict[str, list[Callable[[], None]]] = {}
        self._outlets = egress.open_listeners()
        self._operations = self._visitors = 0
        self._queue: deque[Callable[[], None]] = deque()
        self._at_once: dict[str, Callable[..., dict[str, Any] | None]] = {
            "start": lambda **spec: self._calls.start(spec).state(),
            "note": lambda call_id, text: {"text": self._calls.note(call_id, text)},
            "stat": lambda path: self._files.table["stat"](path=path),
            "usage": lambda: usage(self._home),
            "pause": pause,
            "resume": lambda: signal_all(signal.SIGCONT),
        }
        self._later: dict[str, Callable[..., None]] = {
            "run": self._run,
            "wait": self._wait,
            "stop": self._stop,
            "output": self._output,
            "look": self._look,
            "write": self._write,
            "dial": self._dial,
            "egress": self._egress,
        }

    @cached_property
    def _files(self) -> FileOperations:
        """The file operations.

        They are imported after the agent program's start, because the creator of the sandbox waits for that.
        """
        from .operations import FileOperations  # noqa: PLC0415

        return FileOperations(self._home, f"/proc/self/fd/{self._digests}")

    def dispatch(self, connection: Connection, header: bytes) -> None:
        """Execute one request. Every error becomes an answer."""
        out, deferred = io.BytesIO(), []

        def operation() -> dict[str, Any] | None:
            request = json.loads(header)
            op, generation = request.pop("op"), request.pop("generation", None)
            deadline_s = float(request.pop("deadline_s", _OPERATION_S))
            if (
                op not in ("hello", "dial", "egress")
                and generation is not None
                and generation != self._generation
            ):
                raise Refusal("lost", "the sandbox has another generation")
            if op == "hello":
                return self._hello(generation)
            self._files.make_workspace()
            if op in self._at_once:
                return self._at_once[op](**request)
            if op in self._later:
                self._later[op](connection, **request)
            else:
                blocking = self._files.table[op]
                self._fork_operation(connection, lambda: blocking(**request), deadline_s)
            deferred.append(op)
            return {}

        answer(operation, out)
        if not deferred:
            connection.answer(out.getvalue())

    def _hello(self, generation: str | None) -> dict[str, Any]:
        self._greeted = True
        if self._generation is None:
            self._generation = generation
        self.loop.later(_IDLE_S, self._get_ready)
        return {"generation": self._generation, "apart": identity.apart()}

    def _get_ready(self) -> None:
        """Import the file operations, and exempt all objects from garbage collection, so that forks copy fewer memory
        pages.
        """
        self._files.make_workspace()
        gc.collect()
        gc.freeze()

    def _run(self, connection: Connection, wait_s: float, **spec: Any) -> None:
        """Start the command unless the call began before, and answer at its end or after `wait_s` seconds.

        The answer contains the output when the command has ended and its output is in memory.
        """
        self._answer_when_ended(connection, self._calls.start(spec), wait_s, output=True)

    def _wait(self, connection: Connection, call_id: str, wait_s: float) -> None:
        call = self._calls.find(call_id)
        if call is None:
            connection.answer(json_frame({"state": "unknown"}))
        else:
            self._answer_when_ended(connection, call, wait_s)

    def _stop(self, connection: Connection, call_id: str, grace_s: float = GRACE_S) -> None:
        """End the call, and answer when all its processes have ended, or 10 seconds after the grace time."""
        call = self._calls.stop(call_id, grace_s)
        if call is None:
            connection.answer(json_frame({"state": "unknown"}))
        else:
            self._answer_when_ended(connection, call, grace_s + 10)

    def _answer_when_ended(
        self, connection: Connection, call: Call, wait_s: float, *, output: bool = False
    ) -> None:
        def tell() -> None:
            timer.cancel()
            if tell in call.waiters:
                call.waiters.remove(tell)
            connection.on_close = lambda: None
            connection.answer(
                _with_output(call) if output and call.end is not None else json_frame(call.state())
            )

        def forget() -> None:
            timer.cancel()
            if tell in call.waiters:
                call.waiters.remove(tell)

        timer = self.loop.later(max(wait_s, 0), tell)
        if call.end is not None or wait_s <= 0:
            tell()
            return
        call.waiters.append(tell)
        connection.on_close = forget

    def _output(self, connection: Connection, **ask: Any) -> None:
        """Send long output from a forked process, because the client may read it slowly."""
        self._fork_operation(connection, lambda: framed(self._calls.output(**ask)), _OPERATION_S)

    def _look(self, connection: Connection, call_id: str, reader: str) -> None:
        head, frames = self._calls.look(call_id, reader)
        connection.answer(json_frame(head) + b"".join(frames))

    def _write(self, connection: Connection, path: str, mode: int | None, once: str | None) -> None:
        """Write a file with the permissions `mode`. If `once` is a call id, only the first successful write of that
        call has an effect.

        A second write of the call waits for the first, and does nothing when the first has succeeded.
        """
        before = None if once is None else self._written.get(once)
        if once is not None and before == "now":
            again = lambda: self._write(connection, path=path, mode=mode, once=once)  # noqa: E731
            self._after_write.setdefault(once, []).append(again)
            return
        if before == "done":
            self._fork_operation(connection, lambda: {}, _OPERATION_S)  # reads the body that the client sends
            return
        if once is not None:
            self._written[once] = "now"

        def write() -> None:
            identity.leave_reserve()
            self._files.table["write"](path, mode)

        self._fork_operation(connection, write, _OPERATION_S, lambda done: self._wrote(once, done))

    def _wrote(self, once: str | None, done: bool) -> None:
        if once is None:
            return
        if done:
            self._written[once] = "done"
        else:
            del self._written[once]
        for again in self._after_write.pop(once, []):
            again()

    def _dial(self, connection: Connection, port: int) -> None:
        if self._visitors >= _MOST_VISITORS:
            connection.close()
            return
        self._visitors += 1

        def ended(_: bool) -> None:
            self._visitors -= 1

        self._fork(connection, lambda sock: copy_to_port(sock, port), None, ended)

    def _egress(self, connection: Connection) -> None:
        """Pass the listening sockets for the network to the host, whose egress proxy accepts the connections."""
        egress.hand_over(connection.sock, self._outlets)
        connection.answer(b"")

    def _fork_operation(
        self,
        connection: Connection,
        operation: Callable[[], Any],
        deadline_s: float,
        ended: Callable[[bool], None] = lambda done: None,
    ) -> None:
        """Execute a file operation in a process of its own, and answer the connection with its result.

        While too many operations run, it waits in a queue. At the end, `ended` is called with True if the operation
        succeeded, otherwise with False.
        """

        def begin() -> None:
            self._operations += 1
            self._fork(connection, lambda sock: self._serve(sock, operation), deadline_s, finish)

        def finish(done: bool) -> None:
            self._operations -= 1
            ended(done)
            if self._queue:
                self._queue.popleft()()

        if self._operations < _MOST_OPERATIONS:
            begin()
        else:
            self._queue.append(begin)

    def _serve(self, sock: socket.socket, operation: Callable[[], Any]) -> bool:
        """Execute the operation in this forked process and answer on `sock`. Returns whether the operation
        succeeded.
        """
        gc.disable()  # short, and a collection would copy pages that this process shares with its parent
        identity.end_first()
        for name, value in self._limits.items():
            if name != "RLIMIT_NPROC":
                resource.setrlimit(getattr(resource, name), (value, value))
        sock.setblocking(True)
        with sock.makefile("rwb") as stream:
            self._files.body = stream
            done = answer(operation, stream)
            stream.flush()
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):  # until the client closes
                pass
        return done

    def _fork(
        self,
        connection: Connection,
        work: Callable[[socket.socket], Any],
        deadline_s: float | None,
        ended: Callable[[bool], None],
    ) -> None:
        try:
            pid = os.fork()
        except OSError:  # the client sees a closed connection and tries again
            connection.close()
            ended(False)
            return
        if pid == 0:
            code = 1
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                close_others(connection.sock.fileno(), self._digests)
                code = 0 if work(connection.sock) else 1
            except (OSError, EOFError, ValueError):
                pass
            finally:
                os._exit(code)
        connection.release()
        expiry = None if deadline_s is None else self.loop.later(deadline_s, lambda: _end(pid))

        def reaped(status: int) -> None:
            if expiry is not None:
                expiry.cancel()
            ended(status == 0)

        self.loop.on_exit(pid, reaped)

    def end_unless_greeted(self) -> None:
        """End the sandbox if no client has sent `hello`: its creator has died, so nobody may know that the sandbox
        exists.
        """
        if not self._greeted:
            os._exit(1)

    def accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # no descriptor is left, so the client waits
            Connection(self.loop, listener.accept()[0], self.dispatch)


def _with_output(call: Call) -> bytes:
    """Return the answer with the call's state, and with its output when both streams are in memory."""
    out, err = (kept.in_memory for kept in call.streams)
    if out is None or err is None:
        return json_frame(call.state())
    head, frames = with_output(call.state(), out, err)
    return json_frame(head) + b"".join(frames)


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main(argv: list[str]) -> None:
    """Run as process 1 of a local sandbox. Never returns.

    Arguments: the home directory, the agent program's own directory, the descriptor of the listening socket, and the
    resource limits of commands as JSON.
    """
    home, own, fd, limits_json = argv
    listener, limits = socket.socket(fileno=int(fd)), json.loads(limits_json)
    close_others(listener.fileno())
    listener.set_inheritable(False)
    os.umask(0o022)
    identity.protect()
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    server = Server(home, own, unnamed_file(), limits)
    listener.setblocking(False)
    server.loop.watch(listener.fileno(), lambda: server.accept(listener))
    server.loop.later(_GREETED_S, server.end_unless_greeted)
    server.loop.run()
