"""The agent of a local sandbox: one process, process 1, for the life of the sandbox.

It starts and watches commands in its event loop and answers their state at once. File operations, which may take long
or meet a hostile tree, run in a forked process each. So a crash or a runaway pattern ends only that request.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import resource
import select
import signal
import socket
from collections import deque
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import egress, identity
from .command_environment import unnamed_file
from .command_supervisor import close_others
from .event_loop import READ, WRITE, EventLoop, Timer
from .live_calls import GRACE_S, Call, LiveCalls
from .answering import answer, framed, with_output
from .process_tree import living
from .wire import LENGTH, Refusal, json_frame

if TYPE_CHECKING:
    from .operations import FileOperations

#: The largest header of a request, in bytes: a command of 200,000 characters in JSON.
_MOST_HEADER = 4 * 1024 * 1024
#: Seconds in which a client must have sent its header, or closed after the whole answer.
_CLIENT_S = 30.0
#: The most forked file operations and visitors of previews at once.
_MOST_OPERATIONS, _MOST_VISITORS = 24, 128
#: Seconds after a greeting in which the first request usually comes.
_IDLE_S = 0.02
#: Seconds that one file operation may take when the client names none.
_OPERATION_S = 1900.0


class Connection:
    """One request of a client: reads the header, and writes the answer without blocking."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self._server = server
        self._loop = server.loop
        self.sock = sock
        self._buffer = b""
        self._wanted = LENGTH.size
        self._out = b""
        sock.setblocking(False)
        self._expiry: Timer | None = self._loop.later(_CLIENT_S, self.close)
        self.on_close: Callable[[], None] = lambda: None
        self._loop.watch(sock.fileno(), self._read_header)

    def _read_header(self) -> None:
        """Read exactly the header, so that a forked process can read the body from the socket."""
        try:
            data = self.sock.recv(self._wanted)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._buffer += data
        self._wanted -= len(data)
        if not data:
            self.close()
        elif self._wanted == 0 and len(self._buffer) == LENGTH.size:
            (self._wanted,) = LENGTH.unpack(self._buffer)
            if not 0 < self._wanted <= _MOST_HEADER:
                self.close()
        elif self._wanted == 0:
            self._cancel_expiry()
            self._loop.watch(self.sock.fileno(), self._watch_for_end)
            self._server.dispatch(self, self._buffer[LENGTH.size :])

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _watch_for_end(self) -> None:
        try:
            if self.sock.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.close()

    def answer(self, data: bytes) -> None:
        """Send the whole answer, then wait until the client closes: an earlier close would discard the answer."""
        self._out = data
        self._expiry = self._loop.later(_CLIENT_S, self.close)
        self._send()

    def _send(self) -> None:
        try:
            while self._out:
                self._out = self._out[self.sock.send(self._out[: 1 << 20]) :]
        except BlockingIOError:
            self._loop.watch(self.sock.fileno(), self._send, READ | WRITE)
            return
        except OSError:
            self.close()
            return
        self._loop.watch(self.sock.fileno(), self._watch_for_end)
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def release(self) -> None:
        """Close this process's copy of the socket: a forked process goes on with it."""
        self._cancel_expiry()
        self._loop.unwatch(self.sock.fileno())
        self.sock.close()

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            self.release()
            self.on_close()


class Server:
    """Answers the requests of one sandbox."""

    def __init__(self, home: str, own: str, digests: int, limits: dict[str, int]) -> None:
        """`own` is the directory that only the agent can write, `digests` the descriptor of the digest cache."""
        self.loop = EventLoop()
        self._home = home
        self._digests = digests
        self._limits = limits
        self._calls = LiveCalls(self.loop, os.path.join(own, "calls"), limits)
        self._generation: str | None = None
        self._written: dict[str, str] = {}  # call id → "now" while its write runs, "done" after it
        self._after_write: dict[str, list[Callable[[], None]]] = {}
        self._outlets = egress.open_listeners()
        self._operations = self._visitors = 0
        self._queue: deque[Callable[[], None]] = deque()
        self._at_once: dict[str, Callable[..., dict[str, Any]]] = {
            "start": lambda **spec: self._calls.start(spec).state(),
            "note": lambda call_id, text: {"text": self._calls.note(call_id, text)},
            "stat": lambda path: self._files.table["stat"](path=path),
            "pause": self._pause,
            "resume": lambda: _signal_all(signal.SIGCONT),
        }
        self._later: dict[str, Callable[..., None]] = {
            "run": self._run,
            "wait": self._wait,
            "stop": self._stop,
            "output": self._output,
            "write": self._write,
            "dial": self._dial,
            "egress": self._egress,
        }

    @cached_property
    def _files(self) -> FileOperations:
        """Imported after the start, which the creator of the sandbox waits for."""
        from .operations import FileOperations  # noqa: PLC0415

        return FileOperations(self._home, f"/proc/self/fd/{self._digests}")

    def dispatch(self, connection: Connection, header: bytes) -> None:
        """Do one request. Every error becomes an answer."""
        out, deferred = io.BytesIO(), []

        def operation() -> dict[str, Any]:
            request = json.loads(header)
            op, generation = request.pop("op"), request.pop("generation", None)
            deadline_s = float(request.pop("deadline_s", _OPERATION_S))
            if op not in ("hello", "dial", "egress") and generation is not None and generation != self._generation:
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
        if self._generation is None:
            self._generation = generation
        self.loop.later(_IDLE_S, self._get_ready)
        return {"generation": self._generation, "apart": identity.apart()}

    def _get_ready(self) -> None:
        """Import what file operations need, and keep it out of the garbage collector: forks then copy fewer pages."""
        self._files.make_workspace()
        gc.collect()
        gc.freeze()

    def _run(self, connection: Connection, wait_s: float, **spec: Any) -> None:
        """Start the command unless it began, and answer with its output when it ends within `wait_s` seconds."""
        self._answer_when_ended(connection, self._calls.start(spec), wait_s, output=True)

    def _wait(self, connection: Connection, call_id: str, wait_s: float) -> None:
        call = self._calls.find(call_id)
        if call is None:
            connection.answer(json_frame({"state": "unknown"}))
        else:
            self._answer_when_ended(connection, call, wait_s)

    def _stop(self, connection: Connection, call_id: str, grace_s: float = GRACE_S) -> None:
        """Answer when everything of the call has ended, or after 10 seconds more than the grace."""
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
            connection.answer(_with_output(call) if output and call.end is not None else json_frame(call.state()))

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
        """Long output is read by a forked process: the client may take it slowly."""
        self._fork_operation(connection, lambda: framed(self._calls.output(**ask)), _OPERATION_S)

    def _write(self, connection: Connection, path: str, mode: int | None, once: str | None) -> None:
        """Write a file. A second write of the same call does nothing, after the first one has ended."""
        before = None if once is None else self._written.get(once)
        if once is not None and before == "now":
            again = lambda: self._write(connection, path=path, mode=mode, once=once)  # noqa: E731
            self._after_write.setdefault(once, []).append(again)
            return
        if before == "done":
            self._fork_operation(connection, lambda: {}, _OPERATION_S)  # reads the body, which the client sends
            return
        if once is not None:
            self._written[once] = "now"
        write = self._files.table["write"]
        self._fork_operation(
            connection, lambda: write(path, mode), _OPERATION_S, lambda done: self._wrote(once, done)
        )

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

        self._fork(connection, lambda sock: _copy_to_port(sock, port), None, ended)

    def _egress(self, connection: Connection) -> None:
        """Give the listeners of the network to the host, whose proxy accepts the connections."""
        egress.hand_over(connection.sock, self._outlets)
        connection.answer(b"")

    def _fork_operation(
        self,
        connection: Connection,
        operation: Callable[[], Any],
        deadline_s: float,
        ended: Callable[[bool], None] = lambda done: None,
    ) -> None:
        """Do a file operation in a process of its own, when there is room for one more."""

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
        """Answer one request in this forked process. Returns whether the operation succeeded."""
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

    def accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # no descriptor is left: the client waits
            Connection(self, listener.accept()[0])

    def _pause(self) -> dict[str, Any]:
        """Stop every command, for a machine that cannot freeze the sandbox. Kills those that others keep waking."""
        for _ in range(50):
            running = [one.pid for one in living() if one.pid not in self.loop.children | {1}]
            _signal_all(signal.SIGSTOP)
            if all(_stopped(pid) for pid in running):
                return {}
        for one in living():
            if one.pid != 1 and not _stopped(one.pid):
                _end(one.pid)
        return {}


def _with_output(call: Call) -> bytes:
    """The answer with both outputs when they are in memory, else with the state alone."""
    out, err = (kept.in_memory for kept in call.streams)
    if out is None or err is None:
        return json_frame(call.state())
    head, frames = with_output(call.state(), out, err)
    return json_frame(head) + b"".join(frames)


def _signal_all(number: int) -> dict[str, Any]:
    """Send the signal to every process in the sandbox but process 1."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)
    return {}


def _stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            return file.read().rpartition(")")[2].split()[0] in ("T", "t", "Z", "X")
    except OSError:
        return True


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _copy_to_port(connection: socket.socket, port: int) -> bool:
    """Connect to a port inside the sandbox, and copy bytes both ways until both sides have closed."""
    try:
        inner = socket.create_connection(("127.0.0.1", int(port)), timeout=5)
    except OSError:
        return False
    inner.settimeout(None)
    connection.setblocking(True)
    connection.sendall(b"\1")
    other = {connection: inner, inner: connection}
    open_ = [connection, inner]
    while open_:
        for source in select.select(open_, [], [])[0]:
            data = source.recv(65536)
            if data:
                other[source].sendall(data)
            else:
                open_.remove(source)
                with contextlib.suppress(OSError):
                    other[source].shutdown(socket.SHUT_WR)
    return True


def main(argv: list[str]) -> None:
    """Run as process 1 of a local sandbox. Never returns.

    Arguments: the home, the agent's own directory, the descriptor of the listening socket, and as JSON the resource
    limits of each command.
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
    server.loop.run()
