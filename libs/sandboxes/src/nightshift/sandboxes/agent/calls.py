"""Runs each call once. The journal holds what decides; a directory a call holds the output of its command.

The supervisor of a command holds the call's lock in the journal, so the kernel frees it when the supervisor dies. The
record `began` is added before the command starts and `exit` after it ended. So a reader needs no clock and no pid:

    exit is there            finished
    lock is held             running
    lock is free, began      died: it ran, and its supervisor was killed before it recorded the end
    lock is free, no began   unknown: it never started, and whoever takes the lock may run it
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

from . import command_supervisor
from .confined_paths import require_regular
from .journal import Journal
from .wire import CHUNK, Refusal

_CALL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)*")
_READ_OWN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Calls:
    def __init__(self, outputs: str, journal: Journal) -> None:
        self._outputs = outputs
        self._journal = journal

    def _output_dir(self, call_id: str) -> str:
        return os.path.join(self._outputs, _checked(call_id).replace("/", "~"))

    def start(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Run the command unless the call began before. Returns the call's state now."""
        call_id = _checked(spec["call_id"])
        lock = self._journal.lock(call_id, wait=False)
        if lock is None:
            return {"state": "running"}
        try:
            if self._journal.find(call_id, "began") is not None:
                return self._ended(call_id)
            self._journal.add(call_id, "began", {"at": time.time()})
            command_supervisor.spawn(self._output_dir(call_id), spec, lock)
        finally:
            os.close(lock)  # the supervisor holds the same lock by its own descriptor
        return {"state": "running"}

    def wait(self, call_id: str, wait_s: float) -> dict[str, Any]:
        """Wait until the call has ended, for at most `wait_s` seconds. Returns its state."""
        if not self._journal.wait_unlocked(_checked(call_id), wait_s):
            return {"state": "running"}
        if self._journal.find(call_id, "began") is None:
            return {"state": "unknown"}
        return self._ended(call_id)

    def stop(self, call_id: str) -> dict[str, Any]:
        """Make the supervisor end everything that the call started. Returns the state after at most 10 seconds."""
        give_up = time.monotonic() + 10
        while True:
            status = self.wait(call_id, 0.05)
            if status["state"] != "running" or time.monotonic() > give_up:
                return status
            pid = self._journal.find(call_id, "supervisor")
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)  # the lock is held, so this pid is still the supervisor's
                    os.kill(pid, signal.SIGCONT)  # a command may have stopped it

    def note(self, call_id: str, text: str | None) -> str | None:
        """Note `text` for the call unless something was noted before. Returns the first note."""
        if text is not None and self._journal.find(_checked(call_id), "note") is None:
            self._journal.add(call_id, "note", text)
        noted = self._journal.find(_checked(call_id), "note")
        return None if noted is None else str(noted)

    @contextlib.contextmanager
    def once(self, call_id: str | None) -> Iterator[bool]:
        """Yields True when the caller is to act, False when an earlier act of this call ended without an error."""
        if call_id is None:
            yield True
            return
        lock = self._journal.lock(_checked(call_id), wait=True)
        try:
            done = self._journal.find(call_id, "done") is not None
            yield not done
            if not done:
                self._journal.add(call_id, "done", True)
        finally:
            if lock is not None:
                os.close(lock)

    def output(self, call_id: str, stream: str, offset: int, limit: int) -> Iterator[bytes]:
        """Yields the kept output from `offset`, at most `limit` bytes. Yields nothing when a command removed it."""
        if stream not in ("out", "err"):
            raise Refusal("bad_request", "no such stream")
        path = os.path.join(self._output_dir(call_id), stream)
        try:
            handle = os.open(path, _READ_OWN)
        except OSError:
            return
        with os.fdopen(handle, "rb") as file:
            require_regular(handle, path)
            file.seek(offset)
            while limit > 0:
                chunk = file.read(min(CHUNK, limit))
                if not chunk:
                    return
                limit -= len(chunk)
                yield chunk

    def _ended(self, call_id: str) -> dict[str, Any]:
        end, folder = self._journal.find(call_id, "exit"), self._output_dir(call_id)
        if end is not None:
            return {"state": "finished", "folder": folder, **end}
        return {
            "state": "died",
            "folder": folder,
            **{f"{s}_kept": _size(os.path.join(folder, s)) for s in ("out", "err")},
        }


def _checked(call_id: str) -> str:
    if not _CALL_ID.fullmatch(call_id) or len(call_id) > 220:
        raise Refusal("bad_request", "not a call id")
    return call_id


def _size(path: str) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return 0
