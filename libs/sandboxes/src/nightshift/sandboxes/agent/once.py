"""Answers one request, for a driver that can only run commands. The state of calls is in files in the home
directory.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import stat
import sys
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO

from . import reserve
from .answering import answer, framed, with_output
from .calls import Calls
from .journal import Journal
from .wire import Reader, Writer, make_workspace

if TYPE_CHECKING:
    from .operations import FileOperations

#: Answers up to this many bytes are printed. A longer answer is left in a file.
INLINE = 192 * 1024
#: The prefix of the environment variables with the parts of a request. A number follows.
REQUEST_PART = "NIGHTSHIFT_REQUEST_"


class OneRequest:
    """Answers one request in a sandbox where each request starts a new agent process. The state of calls is in
    files.
    """

    def __init__(self, home: str) -> None:
        state = os.path.join(home, ".nightshift")
        self._body: Reader = io.BytesIO()
        self._state = (state, os.path.join(state, "calls"), os.path.join(state, "io"))
        self._journal = Journal(os.path.join(state, "journal"))
        self._home = home
        self._calls = calls = Calls(self._state[1], self._journal)
        self._operations: dict[str, Callable[..., Any]] = {
            "hello": lambda: {"generation": self._journal.generation()},
            "start": calls.start,
            "run": self._run,
            "wait": calls.wait,
            "stop": calls.stop,
            "note": calls.note,
            "look": calls.look,
            "output": lambda **ask: framed(calls.output(**ask)),
            "pause": lambda: _signal_all(signal.SIGSTOP),
            "resume": lambda: _signal_all(signal.SIGCONT),
            "write": self._write,
        }

    @cached_property
    def _files(self) -> FileOperations:
        """The file operations. They are imported at first use only, because most requests are about calls."""
        from .operations import FileOperations  # noqa: PLC0415

        files = FileOperations(self._home, os.path.join(self._state[0], "digests"))
        files.body = self._body
        return files

    def prepare(self) -> None:
        """Create the state directories again where a command removed, replaced or locked them."""
        with contextlib.suppress(OSError):
            for path in self._state:
                _make_own(path)
            reserve.keep(self._state[0])

    def answer(self, request: dict[str, Any], body: Reader, out: Writer) -> None:
        """Execute the request with its `body`, and write the answer to `out`."""
        self._body = body

        def operation() -> Any:
            op, generation = request.pop("op"), request.pop("generation", None)
            request.pop("deadline_s", None)
            make_workspace(self._home)
            if op in ("start", "run"):
                self.prepare()
            if op == "hello" and generation is not None:
                self._journal.create(generation)
            self._journal.require(generation)
            own = self._operations.get(op)
            return (self._files.table[op] if own is None else own)(**request)

        answer(operation, out)

    def _run(self, wait_s: float, **spec: Any) -> Any:
        """Start the command unless the call began before, and wait for its end for at most `wait_s` seconds.

        Returns the state, with the output when the command has finished and its output is short.
        """
        status = self._calls.start(**spec)
        if status["state"] == "running":
            status = self._calls.wait(spec["call_id"], wait_s)
        if status["state"] != "finished":
            return status
        out, err = (b"".join(self._calls.output(spec["call_id"], name, 0, INLINE)) for name in ("out", "err"))
        # Longer output does not fit into a printed answer and is read by other requests.
        return status if len(out) + len(err) > INLINE // 2 else with_output(status, out, err)

    def _write(self, path: str, mode: int | None, once: str | None) -> None:
        with self._calls.once(once) as first:
            if first:
                self._files.table["write"](path, mode)


def _signal_all(number: int) -> None:
    """Send a signal to every process in the sandbox except process 1 and this one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def _make_own(path: str) -> None:
    """Create a directory and give its owner access. Removes any other kind of file at this path first."""
    if os.path.lexists(path) and not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    os.chmod(path, 0o700)


def once(home: str, answer_path: str, body_path: str, parts: str) -> None:
    """Answer one request for a driver that can only run commands.

    `home` is the sandbox's home directory. The request is in `parts` environment variables, in base64, because the
    kernel limits the length of one. An empty `body_path` means that the request has no body.

    Prints the answer in base64, or the path of a file with the answer when it is longer than INLINE bytes.
    """
    asked = base64.b64decode("".join(os.environ.pop(f"{REQUEST_PART}{part}") for part in range(int(parts))))
    with contextlib.ExitStack() as stack:
        body: Reader = stack.enter_context(open(body_path, "rb")) if body_path else io.BytesIO()
        out = _Spill(answer_path)
        agent = OneRequest(home)
        agent.prepare()
        agent.answer(json.loads(asked), body, out)
        sys.stdout.write(json.dumps(out.finish()))


class _Spill:
    """Collects the answer to one request: in memory while it is short, and all of it in a file above INLINE bytes.

    When the disk is full, the file's content is read back, and the answer stays in memory.
    """

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
        """Move the bytes in memory to the file. When the disk is full, moves the whole answer back to memory."""
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
