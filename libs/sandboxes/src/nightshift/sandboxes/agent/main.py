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
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO

from . import egress, files, imports, reserve, search, tree
from .calls import Calls
from .command_supervisor import close_others
from .confined_paths import Root
from .digest_cache import DigestCache
from .journal import Journal
from .stages import Stages
from .wire import END, Reader, Refusal, Writer, frame, json_frame, read_chunks, read_json

#: An answer up to this many bytes is printed; a longer one is left in a file.
INLINE = 192 * 1024
#: Name of the environment variables with the parts of a request, before their number.
REQUEST_PART = "NIGHTSHIFT_REQUEST_"
#: Seconds without room for another process, after which every process that calls have started is killed.
_CROWDED_S = 5.0
_PR_SET_DUMPABLE = 4


class Agent:
    """Answers requests. Each runs in a process of its own, so a crash or a runaway pattern ends only that request."""

    def __init__(
        self, home: str, state: str, journal: Journal | None = None, digests: str | None = None
    ) -> None:
        """`state` is a directory in the home; journal and digests are files in it unless others are given."""
        self._root = Root(os.path.join(home, "workspace"))
        self._state = (state, os.path.join(state, "calls"), os.path.join(state, "io"))
        self._journal = journal or Journal(os.path.join(state, "journal"))
        self._digests = digests or os.path.join(state, "digests")
        self._calls = calls = Calls(self._state[1], self._journal)
        self._body: Reader = io.BytesIO()
        root = self._root
        # The parameters of an operation are the other fields of the request. It returns the header of the answer, None
        # for an empty one, or an iterator over the frames that follow an empty one.
        self._operations: dict[str, Callable[..., Any]] = {
            "hello": lambda: {"generation": self._journal.generation()},
            "start": calls.start,
            "wait": calls.wait,
            "stop": calls.stop,
            "note": calls.note,
            "output": lambda **ask: _framed(calls.output(**ask)),
            "pause": lambda: _signal_all(signal.SIGSTOP),
            "resume": lambda: _signal_all(signal.SIGCONT),
            "read": lambda **ask: _framed(files.read(root, **ask)),
            "write": self._write,
            "stat": lambda path: {"entry": files.stat_path(root, path)},
            "remove": partial(tree.remove, root),
            "list": self._list,
            "glob": partial(search.find, root),
            "grep": lambda **ask: search.grep(root, ask),
            "import": lambda: imports.import_(root, self._body, DigestCache(self._digests)),
            "stage": lambda **ask: self._stages().stage(**ask),
            "hold": lambda **ask: self._stages().hold(**ask),
            "held": lambda: self._stages().held(),
            "stored": lambda **ask: self._stages().stored(**ask),
            "export": lambda **ask: self._stages().export(**ask),
        }

    def prepare(self) -> None:
        """Make the state directories again where a command has removed, replaced or locked them."""
        with contextlib.suppress(OSError):
            for path in self._state:
                _make_own(path)
            reserve.keep(self._state[0])

    def answer(self, request: dict[str, Any], body: Reader, out: Writer) -> None:
        """Do one request and write its whole answer."""
        try:
            op, generation = request.pop("op"), request.pop("generation", None)
            if not os.path.isdir(self._root.path):
                with contextlib.suppress(OSError):
                    os.makedirs(self._root.path)
            if op == "start":
                self.prepare()
            if op == "hello" and generation is not None:
                self._journal.create(generation)
            self._journal.require(generation)
            self._body = body
            answer = self._operations[op](**request) or {}
            if isinstance(answer, dict):
                out.write(json_frame(answer))
            else:
                first = next(answer)  # computed before the header, so that a Refusal is still an answer
                out.write(json_frame({}) + first)
                for following in answer:
                    out.write(following)
        except Refusal as refusal:
            out.write(json_frame({"error": refusal.kind, "message": str(refusal)}))
        except OSError as error:
            out.write(json_frame({"error": "denied", "message": str(error)}))
        except (KeyError, TypeError, ValueError, EOFError, RecursionError):
            out.write(json_frame({"error": "bad_request", "message": traceback.format_exc(limit=-1)}))
        out.flush()

    def _stages(self) -> Stages:
        return Stages(self._root, os.path.join(self._state[0], "stage"), DigestCache(self._digests))

    def _list(self, fresh: bool, exclude: list[str], limit: int) -> Iterator[bytes]:
        listed = tree.list_tree(self._root, DigestCache(self._digests, fresh), exclude, limit)
        return _framed(tree.rows(listed))

    def _write(self, path: str, mode: int | None, once: str | None) -> None:
        with self._calls.once(once) as first:
            if first:
                files.write(self._root, path, read_chunks(self._body), mode)


def _framed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        yield frame(chunk)
    yield END


def _signal_all(number: int) -> None:
    """Send the signal to every process in the sandbox but process 1 and this one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def _make_own(path: str) -> None:
    """Make the directory and give its owner access. Removes another kind of file at this path first."""
    if os.path.lexists(path) and not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    os.chmod(path, 0o700)


def serve(home: str, listener: socket.socket, limits: dict[str, int]) -> None:
    """Run as process 1 of a local sandbox: fork a child for each connection, and reap every orphan."""
    close_others(listener.fileno())
    outlets = egress.open_listeners()
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    os.umask(0o022)
    # No command may open this process's files through /proc, nor read or trace it: it holds the journal.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")
    journal = os.memfd_create("journal", os.MFD_CLOEXEC)
    digests = os.memfd_create("digests", os.MFD_CLOEXEC)
    agent = Agent(
        home,
        os.path.join(home, ".nightshift-output"),
        Journal(f"/proc/self/fd/{journal}", room=0),
        f"/proc/self/fd/{digests}",
    )
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps for us
    crowded_since: float | None = None
    while True:
        connection, _ = listener.accept()
        try:
            if os.fork() == 0:
                listener.close()
                _serve_one(agent, connection, outlets)
            crowded_since = None
        except OSError:  # no room for another process: the client sees a closed connection and tries again
            now = time.monotonic()
            crowded_since = crowded_since or now
            if now - crowded_since >= _CROWDED_S:
                _signal_all(signal.SIGKILL)  # as for a fork bomb that a command left; its calls count as died
        finally:
            connection.close()


def _serve_one(agent: Agent, connection: socket.socket, outlets: list[socket.socket]) -> None:
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        stream = connection.makefile("rwb")
        request = read_json(stream)
        if request.get("op") == "dial":
            _copy_to_port(connection, int(request["port"]))
        elif request.get("op") == "egress":
            egress.hand_over(connection, outlets)
        else:
            agent.answer(request, stream, stream)
            # Wait until the client closes: closing with unread data in the socket would discard the answer.
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    except (OSError, EOFError, ValueError):
        pass
    finally:
        os._exit(0)


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


def once(home: str, request: str, answer_path: str, body_path: str) -> None:
    """Answer one request for a driver that can only run commands.

    Prints the answer in base64, or the path of a file with the answer when it is longer than INLINE bytes. `request` is
    base64. An empty `body_path` stands for no body.
    """
    asked = base64.b64decode(request)
    with contextlib.ExitStack() as stack:
        body: Reader = stack.enter_context(open(body_path, "rb")) if body_path else io.BytesIO()
        out = _Spill(answer_path)
        agent = Agent(home, os.path.join(home, ".nightshift"))
        agent.prepare()
        agent.answer(json.loads(asked), body, out)
        sys.stdout.write(json.dumps(out.finish()))


class _Spill:
    """Collects an answer: up to INLINE bytes in memory, a longer one in a file, or in memory when the disk is full."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._memory = io.BytesIO()
        self._file: BinaryIO | None = None
        self._full = False

    def flush(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        self._memory.write(data)
        if self._memory.tell() > INLINE and not self._full:
            self._spill()

    def _spill(self) -> None:
        """Move what is in memory to the file. A full disk brings the whole answer back into memory."""
        written = 0
        try:
            self._file = self._file or open(self._path, "wb", buffering=0)  # noqa: SIM115 - closed in finish()
            written = self._file.tell()
            data = memoryview(self._memory.getvalue())
            while data:
                data = data[self._file.write(data) or 0 :]
        except OSError:
            self._full = True
            if self._file is not None:
                self._file.close()
                with open(self._path, "rb") as file:
                    self._memory = io.BytesIO(file.read(written) + self._memory.getvalue())
                os.unlink(self._path)
                self._file = None
            self._memory.seek(0, io.SEEK_END)
        else:
            self._memory = io.BytesIO()

    def finish(self) -> dict[str, str]:
        if self._file is not None:
            self._spill()
        if self._file is None:
            return {"inline": base64.b64encode(self._memory.getvalue()).decode("ascii")}
        self._file.close()
        return {"file": self._path}


def main(argv: list[str]) -> None:
    """Arguments: `serve HOME FD LIMITS-JSON TOKEN`, or `once HOME ANSWER-PATH BODY-PATH PARTS`.

    The request of `once` stands in the environment, in parts, because the kernel limits the length of one variable.
    """
    if argv[0] == "serve":
        serve(argv[1], socket.socket(fileno=int(argv[2])), json.loads(argv[3]))
    else:
        home, answer_path, body_path, parts = argv[1:]
        request = "".join(os.environ.pop(f"{REQUEST_PART}{part}") for part in range(int(parts)))
        once(home, request, answer_path, body_path)
