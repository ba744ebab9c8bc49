"""Identifies processes on the host by what the kernel says about them, without reading their memory."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass


def _is_zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
        return file.read().rpartition(")")[2].split()[0] in ("Z", "X")


@dataclass(frozen=True, slots=True)
class FirstProcess:
    """Process 1 of a sandbox: its pid on the host, and the inode of its pid namespace.

    When process 1 ends, the kernel kills every process in the namespace.
    """

    pid: int
    namespace: int

    def runs(self) -> bool:
        """Return whether this process still runs. A later process with the same pid has another namespace."""
        try:
            return os.stat(f"/proc/{self.pid}/ns/pid").st_ino == self.namespace and not _is_zombie(self.pid)
        except OSError:
            return False

    def kill(self) -> None:
        """Kill the process, and with it the whole sandbox. Does nothing when it has ended."""
        with suppress(OSError):
            handle = os.pidfd_open(self.pid)
            try:
                if self.runs():  # checked after the handle was opened, so the handle belongs to this process
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)


@dataclass(frozen=True, slots=True)
class HostProcess:
    """A process of Nightshift on the host: its pid, and its start time in clock ticks since the boot.

    The start time distinguishes it from a later process with the same pid.
    """

    pid: int
    started: int

    @classmethod
    def current(cls) -> "HostProcess":
        return cls(os.getpid(), _started(os.getpid()))

    def runs(self) -> bool:
        try:
            return _started(self.pid) == self.started and not _is_zombie(self.pid)
        except OSError:
            return False

    def shares_network(self) -> bool:
        """Return whether the process is in the network namespace of this process. False when it has ended."""
        try:
            return os.stat(f"/proc/{self.pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
        except OSError:
            return False

    def kill(self) -> None:
        """Kill the process. Does nothing when it has ended."""
        with suppress(OSError):
            handle = os.pidfd_open(self.pid)
            try:
                if self.runs():
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)


def _started(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
        return int(file.read().rpartition(")")[2].split()[19])
