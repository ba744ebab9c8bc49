"""Runs each call once. The journal says which calls began and ended; a directory for each call holds its output.

The supervisor of a command holds the call's lock in the journal, so the kernel frees it when the supervisor dies. The
record `began` is added before the command starts and `exit` after it ended. They tell the state of a call without a
clock or a pid:

    exit is there            finished
    lock is held             running
    lock is free, began      died: it ran, and its supervisor was killed before it recorded the end
    lock is free, no began   unknown: it never started, and the process that takes the lock may run it
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from .answering import with_output
from .confined_paths import READ, require_regular
from .journal import Journal
from .looks import SHOWN, Look
from .wire import Refusal, checked_call_id, file_chunks


class Calls:
    def __init__(self, outputs: str, journal: Journal) -> None:
        self._outputs = outputs
        self._journal = journal

    def _output_dir(self, call_id: str) -> str:
        return os.path.join(self._outputs, checked_call_id(call_id).replace("/", "~"))

    def start(self, **spec: Any) -> dict[str, Any]:
        """Start the command of this CallSpec, unless the call began before. Returns the state: running, finished or
        died.
        """
        from . import command_supervisor  # noqa: PLC0415 - slow to import, and not needed by most requests

        call_id = checked_call_id(spec["call_id"])
        with self._journal.lock(call_id, wait=False) as lock:
            if lock is None:
                return {"state": "running"}
            if self._journal.find(call_id, "began") is not None:
                return self._ended(call_id)
            command_supervisor.spawn(
                self._output_dir(call_id),
                spec,
                lock,
                lambda pid: self._journal.add(call_id, "began", {"pid": pid}),
            )
        return {"state": "running"}

    def wait(self, call_id: str, wait_s: float) -> dict[str, Any]:
        """Wait until the call has ended, for at most `wait_s` seconds. Returns its state."""
        if not self._journal.wait_unlocked(checked_call_id(call_id), wait_s):
            return {"state": "running"}
        ended = self._ended(call_id)
        if ended["state"] == "died" and self._journal.find(call_id, "began") is None:
            return {"state": "unknown"}
        return ended

    def stop(self, call_id: str, grace_s: float) -> dict[str, Any]:
        """Make the supervisor kill everything that the call started. Returns the state after at most 10 seconds.

        If `grace_s` is 0, the supervisor kills at once. Otherwise it sends SIGTERM first.
        """
        number = signal.SIGTERM if grace_s > 0 else signal.SIGUSR1
        give_up = time.monotonic() + 10
        while True:
            status = self.wait(call_id, 0.05)
            if status["state"] != "running" or time.monotonic() > give_up:
                return status
            began = self._journal.find(call_id, "began")
            if began is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(began["pid"], number)  # the lock is held, so this is the supervisor's pid
                    os.kill(began["pid"], signal.SIGCONT)  # a command may have stopped it

    def note(self, call_id: str, text: str | None) -> dict[str, Any]:
        """Store a text for the call, unless the call has one already.

        Returns the stored text, or None when there is none. A call that runs no command stores its intent, to be known
        after a crash.
        """
        if text is not None and self._journal.find(checked_call_id(call_id), "note") is None:
            self._journal.add(call_id, "note", text)
        return {"text": self._journal.find(checked_call_id(call_id), "note")}

    @contextlib.contextmanager
    def once(self, call_id: str | None) -> Iterator[bool]:
        """Hold the call's lock within the block.

        Yields False when an earlier block of this call has ended without an error, otherwise True. If `call_id` is
        None, always yields True. The caller does the call's effect only when the value is True.
        """
        if call_id is None:
            yield True
            return
        with self._journal.lock(checked_call_id(call_id), wait=True):
            first = self._journal.find(call_id, "done") is None
            yield first
            if first:
                self._journal.add(call_id, "done", True)

    def output(self, call_id: str, stream: str, offset: int, limit: int) -> Iterator[bytes]:
        """Yield up to `limit` bytes of the call's kept `stream` (out or err), from byte `offset` on.

        Yields nothing when a command has removed the output.
        """
        if stream not in ("out", "err"):
            raise Refusal("bad_request", "no such stream")
        path = os.path.join(self._output_dir(call_id), stream)
        try:
            handle = os.open(path, READ)
        except OSError:
            return
        with os.fdopen(handle, "rb") as file:
            require_regular(handle, path)
            file.seek(offset)
            yield from file_chunks(file, limit)

    def look(self, call_id: str, reader: str) -> tuple[dict[str, Any], Iterator[bytes]]:
        """Return the state of a background call and the new output of its two streams, for the call `reader`.

        Output is new until a call has read it. If the same call repeats its reading, it gets the same part again, and
        any later output.
        """
        state = self.wait(call_id, 0)
        if state["state"] == "unknown":
            return state, iter((b"",))
        folder = self._output_dir(call_id)
        sizes = tuple(_size(os.path.join(folder, name)) for name in ("out", "err"))
        # A record for each look: the last one says where the next begins, those before it repeat a look.
        last, number = Look(), 0
        while (found := self._journal.find(call_id, f"look{number}")) is not None:
            last, number = Look(*found), number + 1
        look = last.next(checked_call_id(reader), sizes)
        self._journal.add(call_id, f"look{number}", look)
        out, err = (
            b"".join(self.output(call_id, name, max(look.start[number], sizes[number] - SHOWN), SHOWN))
            for number, name in enumerate(("out", "err"))
        )
        return with_output(state, out, err)

    def _ended(self, call_id: str) -> dict[str, Any]:
        end, folder = self._journal.find(call_id, "exit"), self._output_dir(call_id)
        return {"state": "died" if end is None else "finished", "folder": folder, **(end or {})}


def _size(path: str) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return 0
