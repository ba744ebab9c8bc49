"""A small event loop with callbacks for file descriptors, timers and ended child processes. Single-threaded."""

from __future__ import annotations

import contextlib
import heapq
import os
import select
import signal
import time
from collections.abc import Callable
from functools import partial
from itertools import count

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Timer:
    """A callback that the event loop calls at a given time. `cancel` prevents the call."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class EventLoop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], object]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._children: dict[int, Callable[[int], None]] = {}
        self._wakeup, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.watch(self._wakeup, self._reap)

    def watch(self, fd: int, callback: Callable[[], object], events: int = READ) -> None:
        """Call `callback` whenever the descriptor is ready for `events` or its other side has closed.

        Replaces an earlier callback of the descriptor.
        """
        if fd in self._watched:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._watched[fd] = callback

    def unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), timer))
        return timer

    def on_exit(self, pid: int, callback: Callable[[int], None]) -> None:
        """Call `callback` with the wait status when the child process `pid` has ended."""
        self._children[pid] = callback

    @property
    def children(self) -> set[int]:
        """The pids of the children given to `on_exit` that have not ended."""
        return set(self._children)

    def run(self) -> None:
        while True:
            for fd, _ in self._epoll.poll(self._run_timers()):
                callback = self._watched.get(fd)
                if callback is not None:
                    _call(callback)

    def _run_timers(self) -> float:
        """Run the timers that are due. Returns the seconds until the next timer, or -1 when there is none."""
        while self._timers:
            due, _, timer = self._timers[0]
            if timer.callback is None:
                heapq.heappop(self._timers)
                continue
            left = due - time.monotonic()
            if left > 0:
                return left
            heapq.heappop(self._timers)
            _call(timer.callback)
        return -1

    def _reap(self) -> None:
        """Collect all ended children. As process 1 of the sandbox, this process also has all orphans as children."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            callback = self._children.pop(pid, None)
            if callback is not None:
                _call(partial(callback, status))


def _call(callback: Callable[[], object]) -> None:
    """Call `callback` and print an error that it raises. An error must not end this process: the whole sandbox would
    end.
    """
    try:
        callback()
    except Exception:  # noqa: BLE001 - the boundary of a callback; its trace goes to the sandbox's log
        import traceback  # noqa: PLC0415 - slow to import, and seldom needed

        traceback.print_exc()
