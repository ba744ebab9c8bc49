"""Each call once. A call's directory holds: lock, began, out, err, exit.

`lock` is held by the call's keeper (flock, so the kernel lets go when it dies, however it dies). `began` is written
before the command starts, `exit` by rename after it ended. So whoever looks knows, without clocks and without pids:

    exit is there            finished
    lock is held             running
    lock is free, began      died: it ran, and its keeper was killed before the end was written
    lock is free, no began   it never started: the one who takes the lock may run it
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

from . import keeper
from .wire import CHUNK, Refusal

_CALL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)*")


class Calls:
    def __init__(self, root: str) -> None:
        self._root = root

    def _dir(self, call_id: str) -> str:
        if not _CALL_ID.fullmatch(call_id) or len(call_id) > 220:
            raise Refusal("bad_request", "not a call id")
        return os.path.join(self._root, call_id.replace("/", "~"))

    def start(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Run it unless it began before; the answer is how it stands now."""
        path = self._dir(spec["call_id"])
        os.makedirs(path, exist_ok=True)
        lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return {"state": "running"}
        try:
            if os.path.exists(os.path.join(path, "began")):
                return _ended(path)
            keeper.spawn(path, spec, lock)
        finally:
            os.close(lock)  # the keeper holds its own copy of the same lock
        return {"state": "running"}

    def status(self, call_id: str) -> dict[str, Any]:
        return self.wait(call_id, 0)

    def wait(self, call_id: str, wait_s: float) -> dict[str, Any]:
        path = self._dir(call_id)
        try:
            lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return {"state": "unknown"}
        try:
            if not _shared(lock, wait_s):
                return {"state": "running"}
            return _ended(path) if os.path.exists(os.path.join(path, "began")) else {"state": "unknown"}
        finally:
            os.close(lock)

    def stop(self, call_id: str) -> dict[str, Any]:
        """Tell the keeper to end everything the call started, and wait for it."""
        path = self._dir(call_id)
        give_up = time.monotonic() + 10
        while True:
            status = self.wait(call_id, 0.05)
            if status["state"] != "running" or time.monotonic() > give_up:
                return status
            pid = _keeper_pid(path)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)  # the lock is held, so this pid is the keeper's

    def note(self, call_id: str, text: str | None) -> str | None:
        """The first text noted for this call, this one if it is the first."""
        path = os.path.join(self._dir(call_id), "note")
        if text is not None and not os.path.exists(path):
            os.makedirs(self._dir(call_id), exist_ok=True)
            with open(path + ".new", "w", encoding="utf-8", errors="surrogatepass") as file:
                file.write(text)
            os.rename(path + ".new", path)
        try:
            with open(path, encoding="utf-8", errors="surrogatepass") as file:
                return file.read()
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def once(self, call_id: str | None) -> Iterator[bool]:
        """Whether what follows is to be done; when it is done without an error, not another time."""
        if call_id is None:
            yield True
            return
        path = self._dir(call_id)
        os.makedirs(path, exist_ok=True)
        lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = os.path.exists(os.path.join(path, "done"))
            yield not done
            if not done:
                os.close(os.open(os.path.join(path, "done"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        finally:
            os.close(lock)

    def output(self, call_id: str, stream: str, offset: int, limit: int) -> Iterator[bytes]:
        if stream not in ("out", "err"):
            raise Refusal("bad_request", "no such stream")
        path = os.path.join(self._dir(call_id), stream)
        if not os.path.exists(path):
            return
        with open(path, "rb") as file:
            file.seek(offset)
            while limit > 0:
                chunk = file.read(min(CHUNK, limit))
                if not chunk:
                    return
                limit -= len(chunk)
                yield chunk


def _shared(lock: int, wait_s: float) -> bool:
    """Whether the lock came free within the time. A blocked wait wakes the moment the keeper lets go."""
    if wait_s <= 0:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    class _Over(Exception):
        pass

    def over(*_: Any) -> None:
        raise _Over

    before = signal.signal(signal.SIGALRM, over)
    try:
        signal.setitimer(
            signal.ITIMER_REAL, wait_s, 0.05
        )  # again and again: one between two calls must not be lost
        fcntl.flock(lock, fcntl.LOCK_SH)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except _Over:
        return False
    else:
        return True
    finally:
        with contextlib.suppress(_Over):
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _ended(path: str) -> dict[str, Any]:
    try:
        with open(os.path.join(path, "exit"), "rb") as file:
            return {"state": "finished", **json.load(file)}
    except (FileNotFoundError, ValueError):
        return {"state": "died", **{s + "_kept": _size(os.path.join(path, s)) for s in ("out", "err")}}


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _keeper_pid(path: str) -> int | None:
    try:
        with open(os.path.join(path, "began"), "rb") as file:
            return int(json.load(file)["pid"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
