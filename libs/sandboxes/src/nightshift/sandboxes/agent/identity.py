"""The user ids in a local sandbox. The agent program has an id of its own, so that commands cannot reach its processes.

Where the user namespace maps two ids, the agent program is id 0 with few capabilities, and commands are id 1000. The
agent program accesses files as id 1000, so that all files have one owner. Elsewhere both have the same id. Then only
process 1 is protected: the kernel does not let processes inside kill it, and it is not dumpable.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Iterator

COMMANDS = 1000
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 4, 24
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = (
    41  # the numbers that Linux 5.9 and later know; dropping an unknown one is an error without effect
)
_RESET = (signal.SIGPIPE, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD)

_libc = ctypes.CDLL(None, use_errno=True)


def apart() -> bool:
    """Return whether the agent program has another user id than commands."""
    return os.getuid() == 0


def protect() -> None:
    """Prevent commands from reading or tracing this process and the children that it forks."""
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")
    if apart():
        os.setgroups([0])  # the group that may use the reserved blocks of the disk
        _inherit_no_capability()
        _touch_files_as(COMMANDS)


def _inherit_no_capability() -> None:
    """Clear the inheritable capabilities, which a command would keep when it changes its user id."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # twice: effective, permitted, inheritable
    if _libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    sets[2] = sets[5] = 0
    if _libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


@contextlib.contextmanager
def as_agent() -> Iterator[None]:
    """Access files under the agent program's own user id within the block: in directories to which commands cannot
    write.

    Does nothing where the agent program and commands have the same id.
    """
    if not apart():
        yield
        return
    _touch_files_as(0)
    try:
        yield
    finally:
        _touch_files_as(COMMANDS)


def _touch_files_as(number: int) -> None:
    _libc.setfsgid(number)
    _libc.setfsuid(number)
    if _libc.setfsuid(-1) != number:  # the id -1 changes nothing and returns the present one
        raise PermissionError(f"cannot touch files as the user {number}")


def end_first() -> None:
    """Make the kernel kill this forked process before the agent program when the sandbox's memory runs out."""
    with (
        contextlib.suppress(OSError),
        as_agent(),
        open("/proc/self/oom_score_adj", "w", encoding="ascii") as file,
    ):
        file.write("500")


def leave_reserve() -> None:
    """Give up this process's right to the disk's reserved blocks, which are for saving the workspace."""
    if apart():
        os.setgroups([])


def become_command(limits: dict[str, int]) -> None:
    """Turn this forked process into one of a command: without capabilities, with the user id of commands and `limits`.

    `limits` maps names of resource limits (RLIMIT_…) to values.
    """
    end_first()
    for number in _RESET:
        signal.signal(number, signal.SIG_DFL)
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if apart():
        for capability in range(_CAPABILITIES):
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setgroups([])
        os.setresgid(COMMANDS, COMMANDS, COMMANDS)
        os.setresuid(COMMANDS, COMMANDS, COMMANDS)
