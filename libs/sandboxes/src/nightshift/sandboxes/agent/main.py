"""The entry point of the agent: `serve` runs as process 1 behind a socket, `once` answers one request from files."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import io
import json
import os
import resource
import select
import signal
import socket
import stat
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, BinaryIO

from . import files, search
from .calls import Calls
from .confined_paths import Root
from .journal import Journal
from .wire import Reader, Refusal, Writer, read_chunks, read_json, write_end, write_frame, write_json

#: An answer up to this many bytes is printed; a longer one is left in a file.
INLINE = 192 * 1024
#: Seconds without room for another process, after which every process that calls have started is killed.
_CROWDED_S = 5.0
_PR_SET_DUMPABLE = 4


class Agent:
    """Answers requests. Each runs in a process of its own, so a crash or a runaway pattern ends only that request."""

    def __init__(self, home: str, state: str, journal: Journal | None = None) -> None:
        """`state` is a directory in the home; the journal is a file in it unless one is given."""
        self._root = Root(os.path.join(home, "workspace"))
        self._state = (state, os.path.join(state, "calls"), os.path.join(state, "io"))
        self._journal = journal or Journal(os.path.join(state, "journal"))
        self._calls = Calls(self._state[1], self._journal)

    def _prepare(self) -> None:
        """Make the directories that a command may have removed, closed, or put something else in place of."""
        with contextlib.suppress(OSError):
            os.makedirs(self._root.path, exist_ok=True)
        with contextlib.suppress(OSError):
            for path in self._state:
                _make_own(path)

    def answer(self, request: dict[str, Any], body: Reader, out: Writer) -> None:
        """Do one request and write its whole answer."""
        self._prepare()
        try:
            self._journal.require(request.get("generation") if request["op"] != "hello" else None)
            self._dispatch(request, body, out)
        except Refusal as refusal:
            write_json(out, {"error": refusal.kind, "message": str(refusal)})
        except OSError as error:
            write_json(out, {"error": "denied", "message": str(error)})
        except (KeyError, TypeError, ValueError, EOFError, RecursionError):
            write_json(out, {"error": "bad_request", "message": traceback.format_exc(limit=-1)})
        out.flush()

    def _dispatch(self, ask: dict[str, Any], body: Reader, out: Writer) -> None:
        op = ask["op"]
        if op in ("start", "wait", "stop", "output", "note"):
            self._call(op, ask, out)
        elif op in ("pause", "resume"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGSTOP if op == "pause" else signal.SIGCONT)
            write_json(out, {})
        elif op == "hello":
            if ask.get("generation") is not None:
                self._journal.create(ask["generation"])
            write_json(out, {"generation": self._journal.generation()})
        else:
            self._file(op, ask, body, out)

    def _call(self, op: str, ask: dict[str, Any], out: Writer) -> None:
        if op == "output":
            _stream(out, self._calls.output(ask["call_id"], ask["stream"], ask["offset"], ask["limit"]))
        elif op == "start":
            write_json(out, self._calls.start(ask))
        elif op == "note":
            write_json(out, {"text": self._calls.note(ask["call_id"], ask["text"])})
        elif op == "wait":
            write_json(out, self._calls.wait(ask["call_id"], ask["wait_s"]))
        else:
            write_json(out, self._calls.stop(ask["call_id"]))

    def _file(self, op: str, ask: dict[str, Any], body: Reader, out: Writer) -> None:
        root = self._root
        if op == "read":
            _stream(out, files.read(root, ask["path"], ask["offset"], ask["limit"], ask["anywhere"]))
        elif op == "write":
            with self._calls.once(ask["once"]) as first:
                if first:
                    files.write(root, ask["path"], read_chunks(body), ask["mode"])
            write_json(out, {})
        elif op == "make_dirs":
            files.make_dirs(root, ask["path"])
            write_json(out, {})
        elif op == "stat":
            write_json(out, {"entry": files.stat_path(root, ask["path"])})
        elif op == "remove":
            files.remove(root, ask["path"])
            write_json(out, {})
        elif op == "list":
            listed = files.list_tree(root, ask["path"], ask["digests"], ask["exclude"], ask["limit"])
            _stream(out, (json.dumps(entry).encode("ascii") for entry in listed))
        elif op == "glob":
            write_json(out, search.find(root, ask["path"], ask["pattern"], ask["limit"], ask["seconds"]))
        elif op == "grep":
            write_json(out, search.grep(root, ask["path"], ask))
        elif op == "export":
            write_json(out, {})
            files.export(root, ask["paths"], out, ask["limit"])
        elif op == "import":
            write_json(out, {"count": files.import_(root, body)})
        else:
            raise Refusal("bad_request", f"no operation {op!r}")


def _make_own(path: str) -> None:
    """Make the directory, replace what stands in its place, and give its owner access."""
    if os.path.lexists(path) and not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    os.chmod(path, 0o700)


def _stream(out: Writer, chunks: Iterator[bytes]) -> None:
    """Write a header and a body. Fetches the first chunk before the header, so that a Refusal is still an answer."""
    first = next(chunks, None)
    write_json(out, {})
    if first is not None:
        write_frame(out, first)
        for chunk in chunks:
            write_frame(out, chunk)
    write_end(out)


def serve(home: str, listener: socket.socket, limits: dict[str, int]) -> None:
    """Run as process 1 of a local sandbox: fork a child for each connection, and reap every orphan."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) != listener.fileno():
                with contextlib.suppress(OSError):
                    os.close(int(name))
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    os.umask(0o022)
    # No command may open this process's files through /proc, nor read or trace it: it holds the journal.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")
    journal = os.memfd_create("journal", os.MFD_CLOEXEC)
    agent = Agent(home, os.path.join(home, ".nightshift-output"), Journal(f"/proc/self/fd/{journal}", room=0))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps for us
    crowded_since: float | None = None
    while True:
        connection, _ = listener.accept()
        try:
            if os.fork() == 0:
                listener.close()
                _serve_one(agent, connection)
            crowded_since = None
        except OSError:  # no room for another process: the asker sees the cut, tries again
            now = time.monotonic()
            crowded_since = crowded_since or now
            if now - crowded_since >= _CROWDED_S:
                _make_room()
        finally:
            connection.close()


def _make_room() -> None:
    """Kill every other process, so that a fork bomb left by a command does not block the build for ever.

    The calls that ran count as died.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def _serve_one(agent: Agent, connection: socket.socket) -> None:
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        stream = connection.makefile("rwb")
        request = read_json(stream)
        if request.get("op") == "dial":
            _copy_to_port(connection, int(request["port"]))
        else:
            agent.answer(request, stream, stream)
            _hear_out(connection)
    except (OSError, EOFError, ValueError):
        pass
    finally:
        os._exit(0)


def _hear_out(connection: socket.socket) -> None:
    """Wait until the other side closes. Closing with unread data in the socket would discard the answer."""
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(65536):
        pass


def _copy_to_port(connection: socket.socket, port: int) -> None:
    """Connect to a port inside the sandbox, and copy bytes both ways until both sides have closed."""
    try:
        inner = socket.create_connection(("127.0.0.1", port), timeout=5)
    except OSError:
        return
    inner.settimeout(None)
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


def once(home: str, request: str, body_path: str | None, answer_path: str) -> None:
    """Answer one request for a driver that can only run commands. Prints the answer in base64, or the file it is in."""
    agent = Agent(home, os.path.join(home, ".nightshift"))
    with contextlib.ExitStack() as stack:
        body: Reader = stack.enter_context(open(body_path, "rb")) if body_path else io.BytesIO()
        out = _Spill(answer_path)
        agent.answer(_request(request), body, out)
        sys.stdout.write(out.finish())


def _request(text: str) -> dict[str, Any]:
    """Decode a request given as base64, or as `@FILE` when it is too long for a command line."""
    if text.startswith("@"):
        with open(text[1:], "rb") as file:
            value: dict[str, Any] = json.load(file)
        os.unlink(text[1:])
    else:
        value = json.loads(base64.b64decode(text))
    return value


class _Spill:
    """Collects an answer: up to INLINE bytes in memory, a longer one in a file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._memory = b""
        self._file: BinaryIO | None = None

    def flush(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        if self._file is None and len(self._memory) + len(data) > INLINE:
            self._file = open(self._path, "wb")  # noqa: SIM115 - closed in finish()
            self._file.write(self._memory)
        if self._file is not None:
            self._file.write(data)
        else:
            self._memory += data

    def finish(self) -> str:
        if self._file is None:
            return json.dumps({"inline": base64.b64encode(self._memory).decode("ascii")})
        self._file.close()
        return json.dumps({"file": self._path})


def main(argv: list[str]) -> None:
    """Arguments: `serve HOME FD LIMITS-JSON TOKEN`, or `once HOME REQUEST ANSWER-PATH [BODY-PATH]`."""
    if argv[0] == "serve":
        serve(argv[1], socket.socket(fileno=int(argv[2])), json.loads(argv[3]))
    else:
        once(argv[1], argv[2], argv[4] if len(argv) > 4 else None, argv[3])
